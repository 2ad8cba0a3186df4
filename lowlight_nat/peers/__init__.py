"Networks of others and classical methods, for comparison."
