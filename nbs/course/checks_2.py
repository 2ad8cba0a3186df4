"Checks of session 2: quantizers, the codebook and its loss."
import torch
import torch.nn.functional as F
from checks import choose, close, exercise, need
from torch import nn

from lowlight_nat.models.quantizers import VectorQuantizer, rotate_to, squared_distances, usage_stats
from lowlight_nat.training import losses


@exercise('2.1', 1)
def nearest(f):
    z = torch.randn(2,3,5,4)
    codes = torch.randn(7,3)
    close(
        f(z, codes),
        squared_distances(z, codes).argmin(-1),
        'distances of each z_i, which stands along dimension 1, to each of the K codes; then '
        'argmin over the codes. The shape is (B,h,w)'
    )

@exercise('2.2', 1)
def straight_through(f):
    z = torch.randn(2,3,4,4,requires_grad=True)
    e = torch.randn(2,3,4,4)
    w = torch.randn(2,3,4,4)
    out = f(z, e)
    close(out, e, 'the value must be that of e')
    need(out.requires_grad, 'there is no gradient to z: e itself was chosen, and a choice has none')
    g, = torch.autograd.grad((out*w).sum(), z)
    close(g, w, 'the gradient must pass to z unchanged: add to z a difference that is detached')

@exercise('2.3', 1)
def perplexity(f):
    for t in (torch.arange(8), torch.zeros(10,dtype=torch.long), torch.tensor([[0,0],[0,5]])):
        close(
            float(f(t, 8)),
            usage_stats(t, 8).perplexity,
            'exp of the entropy in nats of the frequencies; codes that are never used count as 0 log 0 = 0'
        )

@exercise('2.4', 2)
def vq_loss(f):
    z = torch.randn(2,3,4,4,requires_grad=True)
    e = torch.randn(2,3,4,4,requires_grad=True)
    beta = .25
    loss = f(z, e, beta)
    close(loss, (1 + beta)*F.mse_loss(z, e),
          'two means of squares: one moves the codes, one the encoder, beta before the second')
    gz,ge = torch.autograd.grad(loss, (z,e), allow_unused=True)
    need(gz is not None and ge is not None,
         'z and e must both get a gradient, each from its own term')
    full = 2*(z-e).detach()/z.numel()
    close(ge, -full, 'the codebook term, weight 1, moves e alone: detach z there')
    close(gz, beta*full, 'the commitment term, weight beta, moves z alone: detach e there')

@exercise('2.5', 2)
def ema_step(f):
    vq = VectorQuantizer(6, 2, decay=.9).train()
    vq.count.copy_(torch.rand(6)*3)
    vq.total.copy_(torch.randn(6,2))
    vq.count[5] = 1e-5
    z = torch.randn(1,2,4,4)
    tokens = torch.randint(0,4,(1,4,4))
    before = [o.clone() for o in (vq.codes, vq.count, vq.total)]
    got = f(*[o.clone() for o in before], z.permute(0,2,3,1).reshape(-1,2), tokens.flatten(), .9)
    need(isinstance(got, tuple) and len(got)==3, 'return (codes, count, total)')
    vq.learn(z, tokens)
    close(got[1], vq.count,
          'count <- decay*count + (1-decay)*n, with n how many latents chose each code')
    close(got[2], vq.total,
          'total <- decay*total + (1-decay)*sum of the latents that chose each code')
    close(got[0], vq.codes,
          'code = total/count where count is above 1e-3; the others stay where they are')

@exercise('2.6', 2)
def revive(f):
    codes = torch.cat([torch.randn(6,2), torch.full((2,2), 30.)])
    count = torch.tensor([1.,2,1,1,3,1,0,0])
    z = torch.cat([codes[:6].repeat(5,1)+.1*torch.randn(30,2), torch.tensor([[8.,8.],[-9.,7.]])])
    new = f(codes.clone(), count.clone(), z, .01)
    close(new[:6], codes[:6], 'codes in use must stay as they are')
    need(new.shape==codes.shape, 'return all K codes')
    d = torch.cdist(new[6:], z)
    need(d.min(1).values.max()<1e-6, 'a dead code is put where a latent is')
    need(
        d.argmin(1).unique().numel() == 2,
        'two dead codes at one place: one of them will be dead again')
    need(
        set(d.argmin(1).tolist()) == {30, 31},
        'take the latents that are farthest from every code: there a code is missing most')

@exercise('2.7', 3)
def adaptive_weight(f):
    last = nn.Parameter(torch.randn(4,3))
    h = torch.randn(5,3)
    rec = (h@last.T).abs().mean()
    g = -(h@last.T).tanh().mean()
    want = losses.adaptive_weight(rec, g, last)
    got = f(rec, g, last)
    close(
        got, want,
        'norm of the gradient of rec at `last`, divided by that of g plus 1e-4; '
        '`torch.autograd.grad` with retain_graph=True',
        1e-3)
    need(not getattr(got, 'requires_grad', False),
         'the weight is a number, not something to be trained: detach it')
    close(
        f(rec, g*10, last)*10/want, 1.,
        'ten times the adversarial loss must give a tenth of the weight', 1e-2)
    close(f(rec*100, g*0, last), 1e4,
          'without an adversarial gradient the ratio explodes: clamp it to [0, 1e4]')

@exercise('2.8', 3)
def rotation(f):
    z = torch.randn(2,3,4,4,requires_grad=True)
    e = torch.randn(2,3,4,4)
    w = torch.randn(2,3,4,4)
    out = f(z, e)
    close(out, e, 'the value must be that of e')
    need(out.requires_grad, 'a gradient must reach z')
    g, = torch.autograd.grad((out*w).sum(), z)
    close(
        g.norm(dim=1)*z.norm(dim=1),
        w.norm(dim=1)*e.norm(dim=1),
        'a rotation keeps lengths: the gradient is scaled by |e|/|z|, no more', 1e-3)
    want, = torch.autograd.grad((rotate_to(z, e)*w).sum(), z)
    close(
        g, want,
        'the reflections: I - 2 r r^T + 2 e_hat z_hat^T, r the unit vector of z_hat + e_hat; only '
        'the last z is not detached',
        1e-3)

@exercise('2.9', 2)
def predicted(letter):
    choose(letter, 'a', dict(
        b='a token is a name: which number a code has says nothing of where it lies',
        c='the renumbered tokens look up the same vectors as before',
    ))

@exercise('2.10', 3)
def read_curve(letter):
    choose(letter, 'b', dict(
        a='compare the heights at the right end of the two curves',
        c='read the legend once more: which curve is the upper one?',
    ))

@exercise('2.11', 3)
def planted_bug(f):
    real = torch.randn(20)*2
    fake = torch.randn(20)*2
    close(f(real, fake), losses.hinge_d_loss(real, fake),
          'a real picture should score above 1 and a decoded one below -1: look at the two signs')
