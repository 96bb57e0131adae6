"""From a list of clips to complete shards: plan, execution, failures, statistics and digest."""
