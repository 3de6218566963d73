// A load that does not wait for its answers: so many checks a second, whatever becomes of them.
//
// The checks are those of a file, one after the other over and over; when the file is replaced,
// the new ones are asked from then on. For each period one JSON object is printed, for the checks
// that were sent in it: how many were answered rightly, answered wrongly, refused by the authorizer
// (an `error_response`), failed by gRPC (by code), and never sent because too many were open; and
// how long those that were decided and those that were not had to wait, in milliseconds.
package main

import (
	"flag"
	"log"
	"os"
	"sync/atomic"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

func main() {
	address := flag.String("address", "", "address of the gRPC service")
	file := flag.String("messages", "", "file of the checks: each a byte that says whether it is let in (1) or not (0), four bytes of length, and the serialized CheckRequest")
	rate := flag.Float64("rate", 100, "checks a second")
	seconds := flag.Float64("seconds", 10, "for how long")
	length := flag.Duration("period", time.Second, "how long a period is")
	connections := flag.Int("connections", 8, "connections")
	open := flag.Int64("open", 4000, "checks that may be open at once")
	pending := flag.Int64("pending", 0, "checks that may wait for a stream at once, where the server allows no more")
	timeout := flag.Duration("timeout", 10*time.Second, "deadline of a check")
	flag.Parse()
	questions, err := readQuestions(*file)
	if err != nil {
		log.Fatal(err)
	}
	asked := &atomic.Pointer[[]question]{}
	asked.Store(&questions)
	go follow(*file, asked)
	load := &load{open: *open}
	queue := &queue{most: *pending}
	for range *connections {
		load.slots = append(load.slots, newSlot(*address, *timeout, load.tell, queue))
	}
	load.run(asked, *rate, *seconds, *length)
}

// load is what asks: its connections, and how many checks are open on them.
type load struct {
	slots []*slot
	open  int64
	busy  atomic.Int64
}

// run asks for so many seconds, and prints each period once all its checks have come back.
func (l *load) run(asked *atomic.Pointer[[]question], rate, seconds float64, length time.Duration) {
	begun := time.Now()
	now := newPeriod(0)
	printed := make(chan struct{})
	close(printed)
	total := int64(rate * seconds)
	for number := int64(0); number < total; number++ {
		due := begun.Add(time.Duration(float64(number) / rate * float64(time.Second)))
		if pause := time.Until(due); pause > 0 {
			time.Sleep(pause)
		}
		if at := int(due.Sub(begun) / length); at != now.Number {
			printed = now.printAfter(printed)
			now = newPeriod(at)
		}
		if l.busy.Load() >= l.open {
			now.Unsent++
			continue
		}
		questions := *asked.Load()
		now.Sent++
		now.late(time.Since(due))
		now.checks.Add(1)
		l.busy.Add(1)
		item := &call{asked: questions[number%int64(len(questions))], sent: time.Now(), in: now}
		l.slots[number%int64(len(l.slots))].send(item)
	}
	<-now.printAfter(printed)
}

// tell has the period of a call know what became of it; the first time counts.
func (l *load) tell(item *call) {
	defer item.in.checks.Done()
	defer l.busy.Add(-1)
	took := time.Since(item.sent)
	if item.code == heldBack {
		item.in.heldBack()
		return
	}
	answer := &auth.CheckResponse{}
	if item.code == codes.OK.String() && (len(item.data) < headBytes || proto.Unmarshal(item.data[headBytes:], answer) != nil) {
		item.code, item.text = codes.Internal.String(), "an answer that cannot be read"
	}
	switch {
	case item.code != codes.OK.String():
		item.in.failed(item.code, item.text, took)
	case answer.GetErrorResponse() != nil:
		item.in.refused(took)
	default:
		item.in.decided(answer.GetStatus().GetCode() == 0 == item.asked.isLetIn, took)
	}
}

// follow has the checks of a file asked that was replaced; a file that cannot be read changes nothing.
func follow(file string, asked *atomic.Pointer[[]question]) {
	var seen time.Time
	for range time.Tick(200 * time.Millisecond) {
		told, err := os.Stat(file)
		if err != nil || told.ModTime().Equal(seen) {
			continue
		}
		questions, err := readQuestions(file)
		if err != nil {
			log.Print(err)
			continue
		}
		seen = told.ModTime()
		asked.Store(&questions)
	}
}
