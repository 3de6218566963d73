"""What `bench.soak` is made of: who asks with which tokens, what is edited, what is measured."""
