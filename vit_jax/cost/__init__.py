"""What a training run will take: counted, compiled for devices that are not attached, and priced."""
