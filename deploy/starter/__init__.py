"""The starter model from nothing: corpus, tokenizer, training, export and evaluation."""
