package main

import (
	"log"
	"sync"
	"time"
)

// slot is a place for one connection; a new one takes it when the server sends the old one away.
type slot struct {
	address string
	timeout time.Duration
	tell    func(*call)
	queue   *queue
	lock    sync.Mutex
	now     *connection
}

func newSlot(address string, timeout time.Duration, tell func(*call), queue *queue) *slot {
	s := &slot{address: address, timeout: timeout, tell: tell, queue: queue}
	s.connect()
	return s
}

// connect puts a connection into the slot; without any server the load is over.
func (s *slot) connect() {
	connection, err := dial(s.address, s.timeout, s.tell, s.send, s.leave, s.queue)
	if err != nil {
		log.Fatal(err)
	}
	s.now = connection
}

// leave takes the next connection, unless that has been done.
func (s *slot) leave(gone *connection) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.now == gone {
		s.connect()
	}
}

func (s *slot) send(item *call) {
	s.lock.Lock()
	now := s.now
	s.lock.Unlock()
	now.out <- item
}
