"""The paper models by their name in configs, zoo and leaderboard: one line each, loaded at first use."""

from __future__ import annotations

from importlib import import_module

MODELS: dict[str, str] = {
    "bpr-mf": "diffrec.models.mf_bpr:BPRMF",
    "fpmc": "diffrec.models.fpmc:FPMC",
    "lightgcn": "diffrec.models.lightgcn:LightGCN",
    "alpharec": "diffrec.models.alpharec:AlphaRec",
    "multvae": "diffrec.models.multvae:MultVAE",
    "diffrec": "diffrec.models.diffrec:DiffRec",
    "dreamrec": "diffrec.models.dreamrec:DreamRec",
    "diffurec": "diffrec.models.diffurec:DiffuRec",
    "fmrec": "diffrec.models.fmrec:FMRec",
    "adrec": "diffrec.models.adrec:ADRec",
    "prefergrow": "diffrec.models.prefergrow:PreferGrow",
    "preferdiff": "diffrec.models.preferdiff:PreferDiff",
    "flowcf": "diffrec.models.flowcf:FlowCF",
    "giffcf": "diffrec.models.giffcf:GiffCF",
    "ldiffrec": "diffrec.models.ldiffrec:LDiffRec",
    "rule-bridge": "diffrec.models.rule_bridge:RuleBridge",
    "sasrec": "diffrec.models.sasrec:SASRec",
    "sasrec-ss": "diffrec.models.sasrec:SASRecSS",
    "sasrec-bce": "diffrec.models.sasrec:SASRecBCE",
    "gsasrec": "diffrec.models.gsasrec:GSASRec",
    "gru4rec": "diffrec.models.gru4rec:GRU4Rec",
    "bert4rec": "diffrec.models.bert4rec:BERT4Rec",
    "bsarec": "diffrec.models.bsarec:BSARec",
    "hstu": "diffrec.models.hstu:HSTU",
    "tiger": "diffrec.models.tiger:TIGER",
    "tiger-decoder": "diffrec.models.tiger_decoder:TIGERDecoder",
    "lc-rec": "diffrec.models.lc_rec:LCRec",
    "maskgr": "diffrec.models.maskgr:MaskGR",
    "rpg": "diffrec.models.rpg:RPG",
    "sasrec-text": "diffrec.models.sasrec_text:SASRecText",
}

_BY_CLASS = {path.split(":")[1]: path.split(":")[0] for path in MODELS.values()}


def __getattr__(name: str) -> object:
    if name in _BY_CLASS:
        return getattr(import_module(_BY_CLASS[name]), name)
    raise AttributeError(f"module 'diffrec.models' has no attribute {name!r}")
