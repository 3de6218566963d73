package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"sync"
	"time"
)

// spread is how long some checks had to wait, in milliseconds.
type spread struct {
	Median  float64 `json:"median_milliseconds"`
	P99     float64 `json:"p99_milliseconds"`
	Longest float64 `json:"longest_milliseconds"`
	waits   []float64
}

func (s *spread) add(took time.Duration) {
	s.waits = append(s.waits, float64(took.Microseconds())/1000)
}

func (s *spread) close() {
	if len(s.waits) == 0 {
		return
	}
	sort.Float64s(s.waits)
	s.Median = s.waits[len(s.waits)/2]
	s.P99 = s.waits[int(float64(len(s.waits))*0.99)]
	s.Longest = s.waits[len(s.waits)-1]
}

// period is what became of the checks that were sent in one span of time.
type period struct {
	Number    int              `json:"period"`
	Sent      int64            `json:"sent"`
	Unsent    int64            `json:"unsent"`
	Decided   int64            `json:"decided"`
	Wrong     int64            `json:"wrong"`
	Refused   int64            `json:"refused"`
	Failed    map[string]int64 `json:"failed"`
	Message   string           `json:"message,omitempty"`
	Decisions spread           `json:"decisions"`
	Others    spread           `json:"others"`
	Late      float64          `json:"longest_late_milliseconds"`
	held      int64
	lock      sync.Mutex
	checks    sync.WaitGroup
}

func newPeriod(number int) *period {
	return &period{Number: number, Failed: map[string]int64{}}
}

// late notes how far the load itself lags behind; only one goroutine sends.
func (p *period) late(by time.Duration) {
	p.Late = max(p.Late, float64(by.Microseconds())/1000)
}

func (p *period) decided(isRight bool, took time.Duration) {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.Decided++
	if !isRight {
		p.Wrong++
	}
	p.Decisions.add(took)
}

// heldBack counts a check that the server's limit of streams kept back.
func (p *period) heldBack() {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.held++
}

func (p *period) refused(took time.Duration) {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.Refused++
	p.Others.add(took)
}

func (p *period) failed(code, message string, took time.Duration) {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.Failed[code]++
	p.Message = message
	p.Others.add(took)
}

// printAfter prints the period behind the one before, and tells when it did.
func (p *period) printAfter(before chan struct{}) chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.checks.Wait()
		<-before
		p.Sent, p.Unsent = p.Sent-p.held, p.Unsent+p.held
		p.Decisions.close()
		p.Others.close()
		text, err := json.Marshal(p)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		fmt.Println(string(text))
	}()
	return done
}
