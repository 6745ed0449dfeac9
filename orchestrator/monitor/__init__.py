"""What watchers see of a run: a ledger in the store, written by whoever runs it and only read by whoever looks on."""
