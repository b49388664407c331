"""The one table of what things are called: fields of jets and constituents, jet classes, particle
types.

Every axis label, unit, histogram range and colour in the notebooks comes from here, so a quantity
looks the same wherever it is drawn. Add a row here before using a new field name anywhere else.
"""

from __future__ import annotations

from math import pi
from typing import NamedTuple


class Field(NamedTuple):
    """One quantity: TeX symbol, unit ("" if none), storage dtype, plot range and one-line meaning."""

    name: str
    tex: str
    unit: str
    dtype: str
    bins: tuple[int, float, float]
    meaning: str
    log: bool = False

    @property
    def label(self) -> str:
        """Axis label with the unit, e.g. ``$p_T$ [GeV]``."""
        return f"{self.tex} [{self.unit}]" if self.unit else self.tex


class Class(NamedTuple):
    """One class of jets: how it is written and its fixed, colour-blind-safe colour."""

    name: str
    tex: str
    colour: str


class Particle(NamedTuple):
    """One particle type as reconstructed: all PDG codes it covers, TeX, colour, mass hypothesis in
    GeV.
    """

    name: str
    pdg_ids: tuple[int, ...]
    tex: str
    colour: str
    mass: float


def _table(*rows: tuple) -> dict[str, Field]:
    return {row[0]: Field(*row) for row in rows}


# The classes of JetClass, arXiv:2202.03772, in the order of our labels.
JETCLASS = (
    "QCD",
    "HToBB",
    "HToCC",
    "HToGG",
    "HToWW4Q",
    "HToWW2Q1L",
    "ZToQQ",
    "WToQQ",
    "TTBar",
    "TTBarLep",
)

# fmt: off
JET_FIELDS = _table(
    ("pt", r"jet $p_T$", "GeV", "float32", (70, 300, 1000), "transverse momentum of the jet", True),
    ("eta", r"jet $\eta$", "", "float32", (60, -3, 3), "pseudorapidity of the jet"),
    ("phi", r"jet $\phi$", "rad", "float32", (64, -pi, pi), "azimuth of the jet, in (-pi, pi]"),
    ("mass", r"jet $m$", "GeV", "float32", (75, 0, 300), "invariant mass of all constituents"),
    ("softdrop_mass", r"$m_\mathrm{SD}$", "GeV", "float32", (75, 0, 300),
     "groomed mass, soft drop with beta=0 and z_cut=0.1"),
    ("tau1", r"$\tau_1$", "", "float32", (60, 0, 0.6), "1-subjettiness, beta=1, normalised"),
    ("tau2", r"$\tau_2$", "", "float32", (60, 0, 0.4), "2-subjettiness"),
    ("tau3", r"$\tau_3$", "", "float32", (60, 0, 0.3), "3-subjettiness"),
    ("tau4", r"$\tau_4$", "", "float32", (60, 0, 0.2), "4-subjettiness"),
    ("tau21", r"$\tau_{21}$", "", "float32", (55, 0, 1.1), "tau2/tau1: small for two prongs"),
    ("tau32", r"$\tau_{32}$", "", "float32", (55, 0, 1.1), "tau3/tau2: small for three prongs"),
    ("e2", r"$e_2$", "", "float32", (60, 0, 0.3), "energy correlation of pairs, arXiv:1409.6298"),
    ("e3", r"$e_3$", "", "float32", (60, 0, 0.03), "energy correlation of triples, arXiv:1409.6298"),
    ("d2", r"$D_2$", "", "float32", (60, 0, 6), "e3 / e2^3: small for two prongs, arXiv:1409.6298"),
    ("ptd", r"$p_T^D$", "", "float32", (50, 0, 1), "root of the sum of pt squared over the sum of pt"),
    ("girth", "girth", "", "float32", (50, 0, 0.6), "pt-weighted mean distance of constituents to the axis"),
    ("jet_charge", "jet charge", "e", "float32", (50, -2.5, 2.5), "pt-weighted sum of charges, arXiv:1209.2421"),
    ("n_constituents", r"$n_\mathrm{constituents}$", "", "int16", (75, 0, 150), "number of constituents stored"),
    ("label", "class", "", "int16", (12, -1.5, 10.5), "index into the sample's class names, -1 if unlabelled"),
    ("fine_label", "fine class", "", "int16", (24, -1.5, 22.5),
     "simulation truth: index into jets.fine.CLASSES, by the decay and the flavour, -1 if unlabelled"),
    ("event", "event", "", "int64", (50, 0, 1e6), "one integer per collision; splits are made by it"),
    ("pair", "pair", "", "int64", (50, 0, 1e6), "one integer per hard parton: its jets differ in variation"),
    ("variation", "variation", "", "int16", (12, -0.5, 11.5), "how the hard process was simulated: index into variations"),
    ("n_vertices", r"$n_\mathrm{PV}$", "", "int16", (60, 0, 60), "reconstructed primary vertices in the event"),
    ("parton_pdg_id", "parton PDG id", "", "int16", (50, -25, 25),
     "simulation truth: hardest parton of the hard process inside the jet, 0 if none"),
    ("n_b_hadrons", r"$n_{b\,\mathrm{hadrons}}$", "", "int16", (6, -0.5, 5.5), "simulation truth: b hadrons in the jet"),
    ("n_c_hadrons", r"$n_{c\,\mathrm{hadrons}}$", "", "int16", (6, -0.5, 5.5), "simulation truth: c hadrons in the jet"),
    ("generated_pt", r"generated jet $p_T$", "GeV", "float32", (70, 300, 1000),
     "simulation truth: pt of the nearest particle-level jet, 0 if none", True),
    ("generated_mass", r"generated jet $m$", "GeV", "float32", (75, 0, 300),
     "simulation truth: mass of the nearest particle-level jet, 0 if none"),
    ("event_label", "event class", "", "int16", (3, -0.5, 2.5), "1 for a signal event, 0 for background"),
    ("resonance_mass", r"$m_X$", "GeV", "float32", (50, 0, 5000), "generated mass of the resonance, 0 for background"),
    ("corr_jvf", r"corrJVF", "", "float32", (52, -0.02, 1.02), "pile-up corrected jet vertex fraction; -1 without tracks"),
    ("rpt", r"$R_{p_T}$", "", "float32", (60, 0, 1.5), "pt of tracks from the hard-scatter vertex over jet pt"),
    ("jvt", "JVT-like discriminant", "", "float32", (56, -0.1, 1.02),
     "k-nearest-neighbour of corrJVF and RpT; -0.1 without tracks"),
    ("fjvt", "fJVT", "", "float32", (60, 0, 1.5), "forward jet vertex tagging, arXiv:1705.02211; as stored by ATLAS"),
    ("nn_jvt_pass", "passes NNJvt", "", "bool", (2, -0.5, 1.5), "passes the working point of ATLAS' NNJvt"),
    ("n_tracks", r"$n_\mathrm{tracks}$", "", "int16", (40, -0.5, 39.5),
     "tracks above 0.5 GeV from the hard-scatter vertex"),
    ("sum_track_pt", r"$\sum p_T^\mathrm{track}$", "GeV", "float32", (60, 0, 120),
     "pt of tracks above 0.5 GeV from the hard-scatter vertex"),
    ("sum_track_pt_pileup", r"$\sum p_T^\mathrm{track}$ (pile-up)", "GeV", "float32", (60, 0, 120),
     "pt of tracks above 0.5 GeV from all other vertices"),
    ("track_width", "track width", "", "float32", (50, 0, 0.5),
     "pt-weighted mean distance from the jet axis of tracks above 1 GeV from the hard-scatter vertex"),
    ("raw_pt", r"jet $p_T$ uncorrected", "GeV", "float32", (70, 300, 1000), "pt before the jet energy corrections", True),
    ("jet_id", "jet identification", "", "int16", (8, -0.5, 7.5), "CMS jet identification bits; 6 is tight with lepton veto"),
    ("double_b", "double-b discriminant", "", "float32", (55, -1.1, 1.1), "CMS double-b tagger, arXiv:1712.07158; as stored"),
    ("n_secondary_vertices", r"$n_\mathrm{SV}$", "", "int16", (12, -0.5, 11.5), "secondary vertices in the jet"),
)

CONSTITUENT_FIELDS = _table(
    ("pt", r"constituent $p_T$", "GeV", "float32", (80, 0.1, 1000), "transverse momentum", True),
    ("eta", r"constituent $\eta$", "", "float32", (70, -3.5, 3.5), "pseudorapidity"),
    ("phi", r"constituent $\phi$", "rad", "float32", (64, -pi, pi), "azimuth, in (-pi, pi]"),
    ("energy", r"constituent $E$", "GeV", "float32", (80, 0.1, 2000), "energy", True),
    ("charge", "charge", "e", "int8", (3, -1.5, 1.5), "electric charge"),
    ("pdg_id", "PDG id", "", "int16", (500, -250, 250),
     "reconstructed type: 211 charged hadron, 130 neutral hadron, 22, 11, 13, 1/2 forward hadronic/electromagnetic"),
    ("has_track", "has track", "", "bool", (2, -0.5, 1.5), "True where d0 and dz were measured"),
    ("d0", r"$d_0$", "mm", "float32", (100, -2, 2),
     "transverse impact parameter; only where has_track; sign as in the dataset, CMS is opposite to Delphes"),
    ("d0_error", r"$\sigma(d_0)$", "mm", "float32", (60, 0.005, 2), "uncertainty of d0; only where has_track", True),
    ("dz", r"$d_z$", "mm", "float32", (100, -2, 2), "longitudinal impact parameter; only where has_track"),
    ("dz_error", r"$\sigma(d_z)$", "mm", "float32", (60, 0.005, 5), "uncertainty of dz; only where has_track", True),
    ("puppi_weight", "PUPPI weight", "", "float32", (51, -0.01, 1.01), "probability-like weight against pile-up, 1407.6013"),
    ("deta", r"$\Delta\eta$", "", "float32", (80, -0.8, 0.8), "eta relative to the jet axis"),
    ("dphi", r"$\Delta\phi$", "rad", "float32", (80, -0.8, 0.8), "phi relative to the jet axis"),
    ("z0", r"$z_0$", "mm", "float32", (80, -200, 200), "track z at the beam line, detector frame"),
    ("from_hard_scatter", "from hard scatter", "", "bool", (2, -0.5, 1.5),
     "simulation truth: particle from the hard scatter"),
)

# Petroff's ten-colour sequence, arXiv:2107.02270.
BLUE, ORANGE, RED, GREY, PURPLE, BROWN, DARK_ORANGE, OLIVE, SLATE, CYAN = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")

CLASSES = {c.name: c for c in (
    Class("QCD", r"$q/g$", GREY),
    Class("HToBB", r"$H\to b\bar{b}$", BLUE),
    Class("HToCC", r"$H\to c\bar{c}$", ORANGE),
    Class("HToGG", r"$H\to gg$", OLIVE),
    Class("HToWW4Q", r"$H\to 4q$", PURPLE),
    Class("HToAA4B", r"$H\to aa\to 4b$", CYAN),
    Class("HToWW2Q1L", r"$H\to \ell\nu qq'$", CYAN),
    Class("ZToQQ", r"$Z\to q\bar{q}$", BROWN),
    Class("WToQQ", r"$W\to qq'$", DARK_ORANGE),
    Class("TTBar", r"$t\to bqq'$", RED),
    Class("TTBarLep", r"$t\to b\ell\nu$", SLATE),
    Class("QCD_bb", r"$g\to b\bar{b}$", ORANGE),
    Class("QCD_b", r"$b$", BROWN),
    Class("QCD_cc", r"$g\to c\bar{c}$", OLIVE),
    Class("QCD_c", r"$c$", CYAN),
    Class("QCD_others", r"light $q/g$", GREY),
    Class("HToWW4Q_0c", r"$H\to 4q$, no $c$", PURPLE),
    Class("HToWW4Q_1c", r"$H\to 4q$, one $c$", DARK_ORANGE),
    Class("HToWW4Q_2c", r"$H\to 4q$, two $c$", BROWN),
    Class("HToWW2Q1L_0c", r"$H\to \ell\nu qq'$, no $c$", CYAN),
    Class("HToWW2Q1L_1c", r"$H\to \ell\nu qq'$, with $c$", SLATE),
    Class("ZToBB", r"$Z\to b\bar{b}$", BLUE),
    Class("ZToCC", r"$Z\to c\bar{c}$", ORANGE),
    Class("ZToQQ_light", r"$Z\to q\bar{q}$, light", BROWN),
    Class("WToQQ_0c", r"$W\to qq'$, no $c$", DARK_ORANGE),
    Class("WToQQ_1c", r"$W\to cq$", OLIVE),
    Class("TTBar_0c", r"$t\to bqq'$, no $c$", RED),
    Class("TTBar_1c", r"$t\to bcq$", PURPLE),
    Class("gluon", r"$g$", GREY),
    Class("light_quark", r"$q$", BLUE),
    Class("quark", r"$q$", BLUE),
    Class("pile_up", "pile-up", ORANGE),
    Class("hard_scatter", "hard scatter", BLUE),
)}

PARTICLES = {p.name: p for p in (
    Particle("charged_hadron", (211, -211), "charged hadrons", RED, 0.13957),
    Particle("photon", (22,), "photons", BLUE, 0.0),
    Particle("neutral_hadron", (130,), "neutral hadrons", GREY, 0.49761),
    Particle("electron", (11, -11), "electrons", ORANGE, 0.000511),
    Particle("muon", (13, -13), "muons", PURPLE, 0.10566),
    Particle("forward_hadronic", (1,), "forward hadronic (HF)", BROWN, 0.0),
    Particle("forward_electromagnetic", (2,), "forward electromagnetic (HF)", DARK_ORANGE, 0.0),
)}
# fmt: on
