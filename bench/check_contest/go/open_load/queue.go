package main

import "sync/atomic"

// queue is how many calls may wait for a stream at once, on all connections.
type queue struct {
	most int64
	now  atomic.Int64
}

// enter says whether one more may wait, and counts it.
func (q *queue) enter() bool {
	if q.now.Add(1) > q.most {
		q.now.Add(-1)
		return false
	}
	return true
}

func (q *queue) leave(count int) {
	q.now.Add(int64(-count))
}
