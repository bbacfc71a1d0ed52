"""Speed of the models: one timing function, its pytest-benchmark suites, and the records made from both."""
