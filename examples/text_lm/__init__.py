# examples/text_lm/__init__.py: the parts of the demo examples/train_text.py.
