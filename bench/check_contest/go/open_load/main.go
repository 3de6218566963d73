// A load that does not wait for its answers: so many checks a second, whatever becomes of them.
//
// It prints one JSON object: how many were allowed, denied, refused by the authorizer (an
// `error_response`), failed by gRPC, and never sent because too many were open; and the waits
// of those that were decided, in milliseconds.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

type counts struct {
	Sent     int64   `json:"sent"`
	Decided  int64   `json:"decided"`
	Denied   int64   `json:"denied"`
	Refused  int64   `json:"refused"`
	Failed   int64   `json:"failed"`
	Unsent   int64   `json:"unsent"`
	Median   float64 `json:"median_milliseconds"`
	P99      float64 `json:"p99_milliseconds"`
	Longest  float64 `json:"longest_milliseconds"`
	PerTenth []int64 `json:"decided_per_tenth"`
}

func main() {
	address := flag.String("address", "", "address of the gRPC service")
	body := flag.String("message", "", "file of the serialized CheckRequest")
	rate := flag.Float64("rate", 100, "checks a second")
	seconds := flag.Float64("seconds", 10, "for how long")
	connections := flag.Int("connections", 8, "connections")
	open := flag.Int64("open", 4000, "checks that may be open at once")
	timeout := flag.Duration("timeout", 10*time.Second, "deadline of a check")
	flag.Parse()
	data, err := os.ReadFile(*body)
	if err != nil {
		log.Fatal(err)
	}
	request := &auth.CheckRequest{}
	if err := proto.Unmarshal(data, request); err != nil {
		log.Fatal(err)
	}
	clients := make([]auth.AuthorizationClient, *connections)
	for i := range clients {
		connection, err := grpc.NewClient(*address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			log.Fatal(err)
		}
		clients[i] = auth.NewAuthorizationClient(connection)
	}
	found := counts{PerTenth: make([]int64, 11)}
	var waits []float64
	var lock sync.Mutex
	var group sync.WaitGroup
	var busy atomic.Int64
	begun := time.Now()
	total := int64(*rate * *seconds)
	for number := int64(0); number < total; number++ {
		due := begun.Add(time.Duration(float64(number) / *rate * float64(time.Second)))
		if pause := time.Until(due); pause > 0 {
			time.Sleep(pause)
		}
		if busy.Load() >= *open {
			found.Unsent++
			continue
		}
		found.Sent++
		busy.Add(1)
		group.Add(1)
		go func(client auth.AuthorizationClient) {
			defer group.Done()
			defer busy.Add(-1)
			ctx, cancel := context.WithTimeout(context.Background(), *timeout)
			defer cancel()
			sent := time.Now()
			answer, err := client.Check(ctx, request)
			took := float64(time.Since(sent).Microseconds()) / 1000
			lock.Lock()
			defer lock.Unlock()
			switch {
			case err != nil:
				found.Failed++
			case answer.GetErrorResponse() != nil:
				found.Refused++
			default:
				found.Decided++
				if answer.GetStatus().GetCode() != 0 {
					found.Denied++
				}
				tenth := int(sent.Sub(begun).Seconds() / *seconds * 10)
				found.PerTenth[tenth]++
				waits = append(waits, took)
			}
		}(clients[number%int64(len(clients))])
	}
	group.Wait()
	sort.Float64s(waits)
	if len(waits) > 0 {
		found.Median = waits[len(waits)/2]
		found.P99 = waits[int(float64(len(waits))*0.99)]
		found.Longest = waits[len(waits)-1]
	}
	text, _ := json.Marshal(found)
	fmt.Println(string(text))
}
