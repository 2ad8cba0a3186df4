"Pictures in and out, lossless and honest."
