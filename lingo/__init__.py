"""Packed adaptive low-rank fine-tuning of language models on DNA (arXiv:2402.08075).

`lingo` contains models and training: it imports torch, transformers, numpy, scikit-learn and safetensors, and never
    ray, mlflow, optuna or `harness`.
"""
