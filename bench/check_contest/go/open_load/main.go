// A load that does not wait for its answers: so many checks a second, whatever becomes of them.
//
// The checks are those of a file, one after the other over and over; when the file is replaced,
// the new ones are asked from then on. For each period one JSON object is printed, for the checks
// that were sent in it: how many were answered rightly, answered wrongly, refused by the authorizer
// (an `error_response`), failed by gRPC (by code), and never sent because too many were open; and
// how long those that were decided and those that were not had to wait, in milliseconds.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"sync/atomic"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func main() {
	address := flag.String("address", "", "address of the gRPC service")
	file := flag.String("messages", "", "file of the checks: each a byte that says whether it is let in (1) or not (0), four bytes of length, and the serialized CheckRequest")
	rate := flag.Float64("rate", 100, "checks a second")
	seconds := flag.Float64("seconds", 10, "for how long")
	length := flag.Duration("period", time.Second, "how long a period is")
	connections := flag.Int("connections", 8, "connections")
	open := flag.Int64("open", 4000, "checks that may be open at once")
	timeout := flag.Duration("timeout", 10*time.Second, "deadline of a check")
	flag.Parse()
	questions, err := readQuestions(*file)
	if err != nil {
		log.Fatal(err)
	}
	asked := &atomic.Pointer[[]question]{}
	asked.Store(&questions)
	go follow(*file, asked)
	load := load{timeout: *timeout, open: *open}
	for range *connections {
		connection, err := grpc.NewClient(*address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			log.Fatal(err)
		}
		load.clients = append(load.clients, auth.NewAuthorizationClient(connection))
	}
	load.run(asked, *rate, *seconds, *length)
}

// load is what asks: its connections, and how many checks are open on them.
type load struct {
	clients []auth.AuthorizationClient
	timeout time.Duration
	open    int64
	busy    atomic.Int64
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
		go l.ask(l.clients[number%int64(len(l.clients))], questions[number%int64(len(questions))], time.Now(), now)
	}
	<-now.printAfter(printed)
}

func (l *load) ask(client auth.AuthorizationClient, asked question, sent time.Time, in *period) {
	defer in.checks.Done()
	defer l.busy.Add(-1)
	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	defer cancel()
	answer, err := client.Check(ctx, asked.request)
	took := time.Since(sent)
	switch {
	case err != nil:
		in.failed(fmt.Sprint(status.Code(err)), status.Convert(err).Message(), took)
	case answer.GetErrorResponse() != nil:
		in.refused(took)
	default:
		in.decided(answer.GetStatus().GetCode() == 0 == asked.isLetIn, took)
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
