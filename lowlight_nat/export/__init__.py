"The network without Python."
