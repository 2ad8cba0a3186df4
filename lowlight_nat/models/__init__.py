"The method, in pure PyTorch."
