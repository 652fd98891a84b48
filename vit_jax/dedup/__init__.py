"""Find training images that are near-duplicates of test images, to leave them out (section 4.1)."""
