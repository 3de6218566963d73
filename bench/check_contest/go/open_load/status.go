package main

import (
	"strconv"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// heldBack is no status: the call was never sent, for the server allows no more streams.
const heldBack = "held back"

// codeName returns the name of a gRPC status as it stands in a trailer.
func codeName(status string) string {
	number, err := strconv.Atoi(status)
	if err != nil {
		return codes.Unknown.String()
	}
	return codes.Code(number).String()
}

// resetName returns the gRPC status that a reset stream has.
//
// Spec: gRPC over HTTP/2, "HTTP2 Transport Mapping", errors.
func resetName(code http2.ErrCode) string {
	switch code {
	case http2.ErrCodeRefusedStream:
		return codes.Unavailable.String()
	case http2.ErrCodeCancel:
		return codes.Canceled.String()
	case http2.ErrCodeEnhanceYourCalm:
		return codes.ResourceExhausted.String()
	default:
		return codes.Internal.String()
	}
}
