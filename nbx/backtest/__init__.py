"""Back-tests: logged, randomised data through the running service, and what that says about its choices."""
