"""Put the fingerprints of the training pictures into the bundled checkpoint, whose training was
before there were any; weights stay as they are: `python nbs/figures/add_fingerprints.py --data
DIR`"""
import argparse

import torch

from lowlight_nat.data.overlap import data_fingerprint, fingerprints, pack
from lowlight_nat.data.pairs import find_pairs
from lowlight_nat.models.checkpoint import load_model, save_model, weights_path

p = argparse.ArgumentParser(description=__doc__)
p.add_argument('--data', required=True,
               help='folder of the data set that the checkpoint was trained on')
pairs = find_pairs(p.parse_args().data, 'train')
model = load_model('small')
before = {k: v.clone() for k, v in model.state_dict().items()}
save_model(
    model, weights_path('small'), model.about
    | dict(data_fingerprint=data_fingerprint(pairs), fingerprints=pack(fingerprints(pairs))))
after = load_model('small').state_dict()
assert all(torch.equal(before[k], after[k]) for k in before) and before.keys() == after.keys()
print(len(pairs), 'fingerprints,', weights_path('small').stat().st_size, 'bytes')
