"""Near-duplicates of test images in a training set, so that they can be left out (section 4.1)."""
