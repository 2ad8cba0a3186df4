"What users call: a picture in, an enhanced picture out."
