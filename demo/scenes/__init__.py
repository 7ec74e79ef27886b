"""The scenes of the story, in the order of the work: asking, entering, proving."""
