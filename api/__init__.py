"""The HTTP face of BlueLoRA. Knows no SQL, tensors or Celery."""
