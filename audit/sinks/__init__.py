"""Where the record goes beside its files: each sink follows the segments at its own pace."""
