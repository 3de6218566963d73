"""The parts of `bench.check`: what is asked, who answers, and who asks."""
