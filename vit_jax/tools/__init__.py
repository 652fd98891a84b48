"""Commands: python -m vit_jax.tools.<tool> --help.

A tool parses its command line, calls the library and prints. The library is in:

  aot       cost/plan.py                 figures  figures/draw_model.py
  convert   pretrained/convert.py        predict  inference/predict.py
  cost      cost/estimate.py             prepare  data/prepare.py
  dedup     dedup/duplicates.py          report   report/build.py
  evaluate  evaluation/predictions.py    resize   pretrained/resize.py
  export    inference/export.py
"""
