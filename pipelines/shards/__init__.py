"""From a list of clips to complete shards: the plan, its execution, failures, statistics and the digest."""
