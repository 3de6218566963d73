"""The contestants of `bench ca`: our workers, OpenBao, and the load that both are put under."""
