// A workload that uses go-spiffe: fetches and verifies everything that the Workload API offers, and
// watches it. Each line on standard output is one JSON object for the test that runs it.
//
// Usage: gospiffe ENDPOINT AUDIENCE
package main

import (
	"context"
	"encoding/json"
	"os"
	"os/signal"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

var lines = json.NewEncoder(os.Stdout)

func say(event string, fields map[string]any) {
	fields["event"] = event
	if err := lines.Encode(fields); err != nil {
		os.Exit(1)
	}
}

func check(what string, err error) {
	if err != nil {
		say("failed", map[string]any{"what": what, "why": err.Error()})
		os.Exit(1)
	}
}

type watcher struct{}

func (watcher) OnX509ContextUpdate(found *workloadapi.X509Context) {
	svid := found.DefaultSVID()
	// The chain is judged by the bundle that came with it, as a peer judges it.
	id, _, err := x509svid.Verify(svid.Certificates, found.Bundles)
	check("verify", err)
	bundle, err := found.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	check("bundle", err)
	say("x509", map[string]any{
		"id":     id.String(),
		"serial": svid.Certificates[0].SerialNumber.Text(16),
		"count":  len(found.SVIDs),
		"roots":  len(bundle.X509Authorities()),
	})
}

func (watcher) OnX509ContextWatchError(err error) {
	say("watch_error", map[string]any{"why": err.Error()})
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	endpoint, audience := os.Args[1], os.Args[2]
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(endpoint))
	check("connect", err)
	defer client.Close()

	token, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	check("fetch the token", err)
	bundles, err := client.FetchJWTBundles(ctx)
	check("fetch the JWT bundles", err)
	here, err := jwtsvid.ParseAndValidate(token.Marshal(), bundles, []string{audience})
	check("verify the token", err)
	there, err := client.ValidateJWTSVID(ctx, token.Marshal(), audience)
	check("have the token verified", err)
	say("jwt", map[string]any{"id": here.ID.String(), "same": here.ID == there.ID})

	err = client.WatchX509Context(ctx, watcher{})
	if ctx.Err() == nil {
		check("watch", err)
	}
}
