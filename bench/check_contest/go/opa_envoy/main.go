// An ext_authz server of the parts that opa-envoy-plugin is made of: grpc-go, the messages of
// go-control-plane as JSON, and OPA's own SDK with its decision log.
//
// It stands in for the plugin in `make bench PART=check` where the plugin itself cannot be had.
// It does less than the plugin (no parsed query or body, no metrics of its own).
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/url"
	"os"
	"runtime"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/open-policy-agent/opa/v1/sdk"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
)

type server struct {
	auth.UnimplementedAuthorizationServer
	opa  *sdk.OPA
	path string
}

// Check puts a request to OPA as the plugin does: the message as JSON, the path in pieces beside it.
func (s *server) Check(ctx context.Context, request *auth.CheckRequest) (*auth.CheckResponse, error) {
	text, err := protojson.Marshal(request)
	if err != nil {
		return nil, err
	}
	var input map[string]any
	if err := json.Unmarshal(text, &input); err != nil {
		return nil, err
	}
	if parsed, err := url.Parse(request.GetAttributes().GetRequest().GetHttp().GetPath()); err == nil {
		pieces := strings.Split(strings.TrimLeft(parsed.Path, "/"), "/")
		list := make([]any, len(pieces))
		for i, piece := range pieces {
			list[i] = piece
		}
		input["parsed_path"] = list
	}
	result, err := s.opa.Decision(ctx, sdk.DecisionOptions{Path: s.path, Input: input})
	if err != nil {
		return nil, err
	}
	if allowed, _ := result.Result.(bool); !allowed {
		return &auth.CheckResponse{Status: &status.Status{Code: int32(code.Code_PERMISSION_DENIED)}}, nil
	}
	ok := &auth.OkHttpResponse{ResponseHeadersToAdd: []*core.HeaderValueOption{
		{Header: &core.HeaderValue{Key: "x-decision-id", Value: result.ID}},
	}}
	return &auth.CheckResponse{
		Status:       &status.Status{Code: int32(code.Code_OK)},
		HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: ok},
	}, nil
}

func main() {
	address := flag.String("listen", "127.0.0.1:0", "address of the gRPC service")
	config := flag.String("config", "", "OPA's configuration file")
	path := flag.String("path", "/envoy/authz/allow", "the decision asked for")
	flag.Parse()
	runtime.GOMAXPROCS(runtime.NumCPU()) // the affinity of the process decides
	file, err := os.Open(*config)
	if err != nil {
		log.Fatal(err)
	}
	opa, err := sdk.New(context.Background(), sdk.Options{Config: file})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	service := grpc.NewServer()
	auth.RegisterAuthorizationServer(service, &server{opa: opa, path: *path})
	log.Fatal(service.Serve(listener))
}
