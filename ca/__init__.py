"""The companion certificate authority: issues SVIDs and serves them over SDS."""
