"""Few-shot adaptations: linear probe, Tip-Adapter-F, VPT, LoRA and full fine-tuning."""
