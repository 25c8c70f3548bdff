"""Public test tools: scripted model, conformance suites, fakes."""
