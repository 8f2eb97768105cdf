"""The contrastive losses written as explicit loops from their formulas, slow and plain."""

import torch


def pairs_of(identity, view_ids=None):
    """Weights of positives and negatives as nested lists, for classes or views."""
    n_rows = range(len(identity))
    same = [[float(identity[i] == identity[j] and i != j) for j in n_rows] for i in n_rows]
    negative = [[float(identity[i] != identity[j]) for j in n_rows] for i in n_rows]
    if view_ids is None:
        return same, negative
    is_view = [[float(view_ids[i] == view_ids[j]) for j in n_rows] for i in n_rows]
    views = [[same[i][j] * is_view[i][j] for j in n_rows] for i in n_rows]
    return views, negative


def eta_of(s, cosines, *, hardened, hardening, beta, threshold, top_k):
    """Hardening weights of an anchor's negatives."""
    if not hardened:
        return torch.ones_like(s)
    if callable(hardening):
        return hardening(s).exp()
    if hardening == "exponential":
        return torch.exp(beta * s)
    if hardening == "polynomial":
        return ((1 + cosines) / 2) ** beta
    if hardening == "top_k":
        return (s >= s.sort(descending=True).values[min(top_k, len(s)) - 1]).to(s.dtype)
    eta = (cosines >= threshold).to(s.dtype)
    return eta if eta.sum() else (cosines == cosines.max()).to(s.dtype)


def reference_loss(
    z,
    identity=None,
    *,
    pairs=None,
    temperature=0.5,
    hardened=True,
    beta=1.0,
    hardening="exponential",
    threshold=-0.25,
    top_k=16,
    tau_plus=0.0,
    negative_mass="negatives",
    denominator="negatives",
    pooling="out",
    reduction="anchors",
    detach_weights=True,
    synthetic=None,
):
    """Return (value, number of skipped anchors).

    ``pairs`` are weights (positive, negative) in place of the identity; ``synthetic``
    holds synthetic unit negatives of each anchor, (B, S, D).
    """
    positive, negative = pairs or pairs_of(identity)
    z = torch.stack([row / row.norm() for row in z])
    n_rows, n_synthetic = len(z), 0 if synthetic is None else synthetic.shape[1]
    losses, masses, skipped = {}, {}, 0
    for i in range(n_rows):
        positives = [j for j in range(n_rows) if j != i and positive[i][j] > 0]
        negatives = [j for j in range(n_rows) if j != i and negative[i][j] > 0]
        if not positives or not negatives:
            skipped += 1
            continue
        others = [z[j] for j in negatives] + list([] if synthetic is None else synthetic[i])
        nu = z.new_tensor([negative[i][j] for j in negatives] + [1.0] * n_synthetic)
        cosines = torch.stack([z[i] @ other for other in others])
        s = cosines / temperature
        eta = eta_of(
            s,
            cosines,
            hardened=hardened,
            hardening=hardening,
            beta=beta,
            threshold=threshold,
            top_k=top_k,
        )
        eta = eta.detach() if detach_weights else eta
        tilted_mean = (nu * eta * s.exp()).sum() / (nu * eta).sum()
        mass = {"negatives": nu.sum(), "batch": n_rows - 2 + n_synthetic}.get(
            negative_mass, negative_mass
        )
        pi = z.new_tensor([positive[i][j] for j in positives])
        masses[i] = pi.sum()
        pi = pi / pi.sum()
        e_pos = torch.stack([torch.exp(z[i] @ z[p] / temperature) for p in positives])
        if pooling == "in":
            pi, numerators = z.new_ones(1), (pi * e_pos).sum()[None]
        else:
            numerators = e_pos
        terms = []
        for numerator in numerators:
            if denominator == "all":
                total = e_pos.sum() + mass * tilted_mean
            elif tau_plus:
                rest = (tilted_mean - tau_plus * numerator) / (1 - tau_plus)
                floor = z.new_tensor(-1 / temperature).exp()
                total = numerator + mass * torch.maximum(rest, floor)
            else:
                total = numerator + mass * tilted_mean
            terms.append(-torch.log(numerator / total))
        losses[i] = (pi * torch.stack(terms)).sum()
    weight = {
        "anchors": lambda i: 1.0,
        "pairs": lambda i: masses[i],
        "classes": lambda i: 1 / (1 + masses[i]),
    }[reduction]
    total = sum(weight(i) for i in losses)
    return sum(weight(i) * losses[i] for i in losses) / total, skipped


def official_hscl(z, y, beta):
    """Jiang et al., arXiv 2209.00078: their training loss, T = 0.5, by the formula.

    Mean over ordered positive pairs; negatives weighted by e^{beta s} with gradient;
    the weighted mean counted batch size - 2 times.
    """
    z = z / z.norm(dim=1, keepdim=True)
    exp_s = torch.exp(z @ z.T / 0.5)
    losses = []
    for i in range(len(z)):
        negative = y != y[i]
        weight = exp_s[i][negative] ** beta
        mean = (weight * exp_s[i][negative]).sum() / weight.sum()
        for p in range(len(z)):
            if p != i and y[p] == y[i]:
                denominator = exp_s[i, p] + (len(z) - 2) * mean
                losses.append(-torch.log(exp_s[i, p] / denominator))
    return torch.stack(losses).mean()


def official_hucl(first, second, beta, tau_plus, temperature=0.5):
    """Robinson et al., arXiv 2010.04592: their loss of two views, by the formula.

    Importance weights e^{beta s} with gradient, divided by their mean; the debiased sum
    is clamped at N e^{-1/T}, N = 2B - 2.
    """
    z = torch.cat([first, second])
    z = z / z.norm(dim=1, keepdim=True)
    n_rows, half = len(z), len(first)
    losses = []
    for i in range(n_rows):
        view = (i + half) % n_rows
        others = [j for j in range(n_rows) if j not in (i, view)]
        e_neg = torch.exp(torch.stack([z[i] @ z[j] for j in others]) / temperature)
        e_pos = torch.exp(z[i] @ z[view] / temperature)
        importance = e_neg**beta
        reweighted = (importance * e_neg).sum() / importance.mean()
        n = len(others)
        negative = (reweighted - tau_plus * n * e_pos) / (1 - tau_plus)
        floor = n * torch.exp(torch.tensor(-1 / temperature, dtype=z.dtype))
        negative = torch.maximum(negative, floor)
        losses.append(-torch.log(e_pos / (e_pos + negative)))
    return torch.stack(losses).mean()


def supcon_out(z, y, temperature):
    """Khosla et al., arXiv 2004.11362, equation 2, averaged over anchors."""
    z = z / z.norm(dim=1, keepdim=True)
    exp_s = torch.exp(z @ z.T / temperature)
    losses = []
    for i in range(len(z)):
        everyone = sum(exp_s[i, a] for a in range(len(z)) if a != i)
        terms = [
            torch.log(exp_s[i, p] / everyone)
            for p in range(len(z))
            if p != i and y[p] == y[i]
        ]
        losses.append(-torch.stack(terms).mean())
    return torch.stack(losses).mean()


def supcon_in(z, y, temperature):
    """Khosla et al., arXiv 2004.11362, equation 3, averaged over anchors."""
    z = z / z.norm(dim=1, keepdim=True)
    exp_s = torch.exp(z @ z.T / temperature)
    losses = []
    for i in range(len(z)):
        everyone = sum(exp_s[i, a] for a in range(len(z)) if a != i)
        terms = [exp_s[i, p] / everyone for p in range(len(z)) if p != i and y[p] == y[i]]
        losses.append(-torch.log(torch.stack(terms).mean()))
    return torch.stack(losses).mean()


def in_ball(z):
    """Rows scaled to unit norm only where they are longer."""
    return torch.stack([row / row.norm() if row.norm() > 1 else row for row in z])


def collapse_loss(z, y, beta, drawn=None):
    """Jiang et al., arXiv 2311.05139: their training loss by the formula, T = 1, Q = 1.

    Mean over all pairs (i, p) of one class, the pair (i, i) among them. Each pair has its
    own negatives, drawn with chances e^{beta cos} that are constants; ``drawn`` maps i to
    their indices, (number of positives, k). Without it the expected mean is taken.
    """
    z = in_ball(z)
    losses = []
    for i in range(len(z)):
        negatives = [j for j in range(len(z)) if y[j] != y[i]]
        cosines = torch.stack([z[i] @ z[j] for j in negatives])
        chances = torch.exp(beta * cosines).detach()
        expected = (chances * cosines.exp()).sum() / chances.sum()
        positives = [p for p in range(len(z)) if y[p] == y[i]]
        for slot, p in enumerate(positives):
            e_pos = torch.exp(z[i] @ z[p])
            mean = expected
            if drawn is not None:
                mean = sum(torch.exp(z[i] @ z[j]) for j in drawn[i][slot])
                mean = mean / len(drawn[i][slot])
            losses.append(-torch.log(e_pos / (e_pos + mean)))
    return torch.stack(losses).mean()


def official_sscl(z, view_ids, beta, synthetic, tau_plus=0.1, temperature=0.5):
    """Dong et al., arXiv 2304.02971: the loss of their code, by the formula.

    Importance weights e^{beta s} with gradient over the real and the synthetic negatives
    (B, S, D), which are constants; N counts both.
    """
    z = torch.stack([row / row.norm() for row in z])
    losses = []
    for i in range(len(z)):
        real = [z[j] for j in range(len(z)) if view_ids[j] != view_ids[i]]
        (view,) = (j for j in range(len(z)) if j != i and view_ids[j] == view_ids[i])
        everyone = torch.stack([*real, *synthetic[i].detach()])
        e_neg = torch.exp(everyone @ z[i] / temperature)
        e_pos = torch.exp(z[i] @ z[view] / temperature)
        importance = e_neg**beta
        n = len(e_neg)
        reweighted = (importance * e_neg).sum() / importance.mean()
        negative = (reweighted - tau_plus * n * e_pos) / (1 - tau_plus)
        floor = n * torch.exp(torch.tensor(-1 / temperature, dtype=z.dtype))
        losses.append(-torch.log(e_pos / (e_pos + torch.maximum(negative, floor))))
    return torch.stack(losses).mean()


def lacln(z, y, temperature=0.5):
    """Return the loss of the public code of arXiv 2402.14551, which is a third party's.

    The sum of e^{2s} includes the positives; the number of negatives divided by their sum
    of e^s multiplies it. Rows are used as they are.
    """
    losses = []
    for i in range(len(z)):
        e = {j: torch.exp(z[i] @ z[j] / temperature) for j in range(len(z)) if j != i}
        positives = [e[j] for j in e if y[j] == y[i]]
        negatives = [e[j] for j in e if y[j] != y[i]]
        if not positives:
            continue
        squares = sum(each**2 for each in e.values())
        total = sum(positives) + len(negatives) / sum(negatives) * squares
        losses.append(-torch.log(sum(positives) / len(positives) / total))
    return torch.stack(losses).mean()


def weighted_positives(z, y, gamma, *, detach, pooled, temperature=0.5):
    """SCL whose positives have weights e^{-gamma s}, by the formula."""
    z = torch.stack([row / row.norm() for row in z])
    losses = []
    for i in range(len(z)):
        s = [z[i] @ z[j] / temperature for j in range(len(z))]
        positives = [j for j in range(len(z)) if j != i and y[j] == y[i]]
        if not positives:
            continue
        negative = sum(s[j].exp() for j in range(len(z)) if y[j] != y[i])
        weights = torch.stack([torch.exp(-gamma * s[p]) for p in positives])
        weights = weights.detach() if detach else weights
        weights = weights / weights.sum()
        e_pos = torch.stack([s[p].exp() for p in positives])
        if pooled:
            e_pos, weights = (weights * e_pos).sum()[None], weights.new_ones(1)
        losses.append((-weights * torch.log(e_pos / (e_pos + negative))).sum())
    return torch.stack(losses).mean()
