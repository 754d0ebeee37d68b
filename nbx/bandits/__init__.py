"""Learning and choosing: posteriors, River estimators, exact Thompson kernels, snapshots, the learner's fold."""
