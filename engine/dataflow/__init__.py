"""Plan, make, embed, commit: the only home of Ray Data (`run.Run`, `cluster.connected_cluster`)."""
