"""The diffusion process: noise schedule, one-step x0, samplers of many steps and of few."""
