"""Test images, their encoding, and how close decoded pixels must be."""

import io

import cv2
import numpy as np
from PIL import Image


def smooth_image(height, width, seed=0):
  rng = np.random.default_rng(seed)
  coarse = rng.uniform(20, 235, (5, 6, 3)).astype(np.float32)
  image = cv2.resize(coarse, (width, height)) + rng.normal(0, 6, (height, width, 3))
  return image.clip(0, 255).astype(np.uint8)


IMAGE = smooth_image(63, 97)


def encode(image, kind, **options):
  out = io.BytesIO()
  (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
  return out.getvalue()


def assert_close(got, expected, tolerance):
  assert got.dtype == np.uint8
  assert got.shape == expected.shape
  assert np.abs(got.astype(float) - expected).max() <= tolerance
