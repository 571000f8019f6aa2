"""Whether FlashInfer is there: not on a CPU."""

IS_FLASHINFER_AVAILABLE = False
