"""The table of published datasets: titles, licences, whom to cite, and address, size and checksum
of each file.

Sizes and checksums are those that the publishers give; where none was found, `n_bytes` is None and
`checksum` is "".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class RemoteFile(NamedTuple):
    """One published file: name, address, bytes or None, and checksum as "md5:..." or "sha256:...",
    or "".
    """

    name: str
    address: str
    n_bytes: int | None = None
    checksum: str = ""


class Dataset(NamedTuple):
    """One published dataset.

    `reader` is the module of `jetnb.readers` for its files; `record` the page that people read;
    `by_hand` says what to fetch by hand, where files cannot be listed one by one or the server is
    known for its troubles.
    """

    name: str
    title: str
    reader: str
    description: str
    licence: str
    citation: str
    record: str
    files: tuple[RemoteFile, ...] = ()
    by_hand: str = ""


# Bytes and md5 of RunG_batch<i>.h5, then of RunH_batch<i>.h5, one line per i.
_ASPEN = """\
2379411451 bed9c27139f6651fb9511da39210e9e8 2373231012 e1f80505da028e2f800a84e592c6eb61
2478381156 7c5d85bbef57d52168cbf6e7b6f9293d 2509312881 8d4431e6a9e9a4ee00ab4dee8e62be9a
2303714277 8845537f51e6680e36820511665715f5 2404910941 10e9f3d65e32652fae939444eaae0154
2433390761 b81d16257b371acc4021d1a27cae5ed5 2321783962 a46b299502af449c1d12a0082c89ee5d
2561304003 b94165566ff2a3085ce30fb201cf4783 2435159447 5078689e3acb6c97616235223dfd893e
2647538523 d81d867fc7a5b09665d725140003827c 2462704947 194597a9ca6b7f5f9d57d06ecfc88955
2374408679 d05108f7d3913bb1a204052834332e2a 2581991169 f90dda1ad19b2d66a0fd9540ecf0d9f7
2339834059 eb522dd62f6abffd936e51cec5ef0e1b 2618306959 e3b5f858b3f6b0b3cd2b0e371fa19a9b
2396718208 96cd7df0741cae05a42005ac434bc6cf 2525973138 926cd17ac27a2673b665998a82d5aa20
2476090230 9ddfc6bd753a3fdcfb53195eec492333 2334807666 890444d314f7b90c89919a369ab467e6
2412987323 d1d6526c38ac2e1f822e8db958151f5c 2504185468 7e5fa5f3cb065a623702e2b9a6f55a82
2499439167 9b2046dbdbc26cee5754917c6c15c5c1 2588807592 40cf917c2d0e6164f5c5d3c12a0405de
2446902437 1789b978073651698cceda6a11044ae7 2645562672 90f2bdb87fc3adbadb161d7e9ee94191
2520493759 43b7600c25047e7ca09ea062fc77c3c8 2557596911 eb9cf126983144ebf57e905aa263ae69
2543447621 8fa23f0dd377a61035cd5936a7fcfab7 2632865777 1ce5a82dba4253da5e1451468dc32654
2428600713 4d0af0a9d38e24a1ab7ebb169d2f6484 2697861022 64f7ff3bb44b4fd6169fb30490cad676
2598881853 8e1fb1b737fd666c4d794cc003f95813 2757022978 9c92564610df6d88a58ef3dda1a007b7
2577044198 d895ea7f4478819dcfb35d672c130c49 2658405249 da3593c4840042ef655f898632bfe364
2428676700 3ec969ce6935c16254283231117abfc1 2763862111 cbac393a793e8d39532582df63100598
2544742858 09abd20e0dc46eee72c13a61c765abea 2703528303 3170d1560f1db00e55eef4e486fb2c92
2301768945 870ac08cd2377bb1e068539a664aeda2 2641481312 15b63c56e79aa06a85edb6a74ddcd8ee
2398116867 7a29a047ccecbfe18439bd466d1ea86e 2471379510 b159025f556277fdf0cfb20468db008d
2570285154 bea18b4d90dbc7ef01f0db8c2e0772f9 2649802372 93d7104826c94a1ab5506ddffaba7aa0
2530806950 1a9aa5f09ea8d0e5687859cf79aace59 2495112071 b24e8ff61f111984f512bbda88bca082
2377331608 c8267f474419b27f1472c750396532d4 2596669145 ecdcea8320892754f4ff1af1da3f1c02
2483818764 bc6de5075284ea7e1db4f78eb2a8490c 2707149514 848fb914bbcb2a9c91d82806f076e582
2461819129 533c98643f63abbc9c95161b39494c8b 2607187548 7efdb2313d3c56be8f7e4488e10774ad
2443577046 94f9b1e957c6cc9f3f3489d362cc9b92 2769923065 4e7288e32424df99fc05984236c1e6da
2518198030 bff3cd0eb05b6c11f55511956cd65936 2637973434 555b12702cd2a00a3dd6eddf795f1290
2303659941 a3f6500c20681554361570a2e3005352 2627317882 65a26fac1db7513bfb445f9b95a06e7f
2403518390 bdde11c6af382b8a360582999f09742f 2642510304 8affe7bc849c5a221566ba0cac49abf7
2440842206 d84931fec851266e8e8d08ff11ba32cf 2574878035 d054602f665e15c84921c5aed0c474bd
2465383068 cff8da1b4f62f83fdc7f4d23fd2478d9 2685088734 1f81308608b0ca5d5651ccf89f445a0f
2343624815 b8df08c907e0d3ff880a29efb0d4b250 2648706767 fcf3e84e3e20f7852bca0eeb606d1dfe
2579147179 5f1f739d0be0aaa7ea667aa72257fefb 2570723331 db6ddc517b92f8f95c660394ebc22596
2499670754 7a73ecf750f1c98829fb675cde4b49f9 2580402583 80c65779443b2301e7af6f1a9ef9c2d3
2541561498 278d9b722c0748dc9cebc066d677b447 2523934432 41557437e64bc7be233092de90e1a529
2487409906 e1931a2d81f8dd6afa6dccdf1295ba22 2713430567 0a2f0e51c68c646d2b703135e0423bc8
2490464942 f157af70dde0dd9f9bee533adf494195 2700504487 69494b6c28b1cb5f54a1a8bb77049b21
5280446668 c893435a6b2b19e804360a86035a3577 5057106355 6714459031414b332cde2420ac52ddb5
"""

_JETCLASS = {
    "train_100M_part0": "de4fd2dca2e68ab3c85d5cfd3bcc65c3",
    "train_100M_part1": "9722a359c5ef697bea0fbf79bf50f003",
    "train_100M_part2": "1e9f66cd1f915f9d10e90ae1d7761720",
    "train_100M_part3": "47348fc8985319fa4806da87500482fa",
    "train_100M_part4": "6b0ce16bd93b442a8d51914466990279",
    "train_100M_part5": "416e347512e716de51d392bee327b8e9",
    "train_100M_part6": "e9b9c1557b1b39bf0a16e4ab631ae451",
    "train_100M_part7": "5bfc6cb285ccb7680cefa9ac82ad1a2e",
    "train_100M_part8": "540c1a0d66dfad78d2b363c5740ccf86",
    "train_100M_part9": "668f40b3275167ff7104c48317c0ae2a",
    "val_5M": "7235ccb577ed85023ea3ab4d5e6160cf",
    "test_20M": "64e5156d26d101adeb43b8388207d767",
}


# md5 of QG_jets, QG_jets_withbc, QG_jets_herwig, QG_jets_herwig_withbc, twenty files each, as
# EnergyFlow lists them.
_QUARK_GLUON = """\
f5d052f10a79c6e8b9382637aca0ef52 f6a1081c76a47386bc11abcf0e499552 2628367c57ba598f4473c870d1381041
dd3ad998b0a1bd9acea2ecf029a8a921 a56d6bb98361b55382aa8c06225e05d8 266c688e9e6ff1cd20840692d45eaaf8
95a9f7e555fb7b1073967056b9030b11 4ae72aaabe121bd489532c99a6bdde95 a2b80bd4199468fde4f302d346a8c9d8
1157cbace488c70c9dcfc250f3345b06 4b424b553e1e7f852e47ea9904bc2dcf ccd29c9d1abb34dd7cfb48cfc57a9695
1ed1f6f19fb8439c9811dced41d5127d af45818c361e11ca9b3adaba30db06ad 488ced3ea409d7e2b196da67f7d182ec
c5e083019de6cd6a0ef12bcec1ea566b 48605d55edff665f0c7d2f800b5a622e 8fd47760957b5fd9adec9048b50cd1a9
d43d611484b55391e891ba31c605f792 6753508e34014cc69714a01fca20ec38
e9ac4044a07f56a919a96e2b30c15fed 5e0c0a08c5de47b190b514ce49ff4e94 7c4209b14f778bb6c8cb6833a3d47854
cabbd75d4313e07bf8cd8e3479e06c18 87e793e74e5e665e40c1ece764952934 fd0ff359e1e64023b1c1f05e854c7180
fed4dfe45618598c853f8d9d24a40afd 4220bee4b081850e41b3462c06538bda a7d76ec2ab2ef6d5777de5574e289c26
40b9d803d1579ef77d6eda733e385e22 bd5871239ddadcf080e62ffea07bb122 d7731f5abdf7d3e0c17eca846c25eff3
68514a76032dddb3b9cfd38654a4d433 d3dca7cb617c66e6f58ea248a10b5ccb 625a2d19e9b3ac6907362be3cefc404c
dae5923aba89ad393e1c59c63f2552e2 c611ace22f23518ae20d9e828fb5d0bc 821cff3746d2fa07ad1b9feb056dd88b
5c4775a99d18ac713360d9bbc43bfb43 5fd9bcfa8baafb6b3f6efb5114420976
a9de310c35c5a83ea592ef93070ff2f3 d6ff8cc5c6192309fba915114fdc8358 625bc4a0619b5b2551e273be493c6092
821b293d4e68db8b2bd40a1732d1d865 415dded70fca2ae5e555cdee776724d8 242e23df1b837b9afac880383157a161
068eb955146f773c1b5815dd3424c434 e0212b768f57344ae60df7783ba5ba25 d1a082794c84d2b0cc159034cf4d44b6
f2e1c99033a2ff7d97d9968d394333ba 5eab363df8bdff106f53858e60fe7ed1 2b365047d797207009e3b40f3ec71669
02317fda982357aa3874fd8c6c0e5863 a102b2056cc08e7c7a9312461151e749 628acd4a4e7b39d8b8e3675f4d91a3d0
f19512ae26b5a54930bb57d7b3ab8672 c71796ceae838945710c53ce95a33297 b9e26d977f8b0e638f5db42cd1c3bcee
6339009c2f5e06ac3c7b2ddade3b3e68 efdec3aa9194e835f2773be6fb424054
2acf8751843b18d97fc9d2c5cc1ada6e d900130f470a16edf95faef844169c98 1ff02a8f99e16645ce1aeea262d48e08
cd8c63195966bec92846fd085e696a24 4d1d284cadc6a2c682f7673611c4d583 d6dccec5c6a7c80d967e2cc2bf5955f6
e4bc0643113a41820895a8911c8b54f8 814d109e673c78fd7f7c15143587c78b 252a31659ebacb17ebd1a41250fa8546
adb64fcc128744fbe8944b865a92a6e6 e7c151d8af531840823c53ac67518e2e e4535cb57361eb31b51542ced6604626
a752c262f3e0ac1eda48d49496eaf46c ad486b64b76ba73e93ee0ef1aaf2b3ba 0019446390bd46ed7f8679da57c5ced0
8942d2900be5d924ba5fe859daea6947 c9a01fb2d9bd6a4f18ebc721e2d91b1c c9d31a2b8baeb44d9b1f821b023669b1
253e7ef9d9edf37306f7d2b769377a95 185902f2aba6c7c1b79dea24d9997146
"""


def _aspen() -> Iterable[RemoteFile]:
    rows = [line.split() for line in _ASPEN.splitlines()]
    for run, column in (("G", 0), ("H", 2)):
        for i, row in enumerate(rows):
            name = f"Run{run}_batch{i}.h5"
            yield RemoteFile(
                name,
                f"https://www.fdr.uni-hamburg.de/record/16505/files/{name}?download=1",
                int(row[column]),
                f"md5:{row[column + 1]}",
            )


def _zenodo(record: int, *files: tuple) -> Iterable[RemoteFile]:
    for name, n_bytes, checksum in files:
        yield RemoteFile(
            name, f"https://zenodo.org/records/{record}/files/{name}?download=1", n_bytes, checksum
        )


def _jetclass() -> Iterable[RemoteFile]:
    yield RemoteFile(
        "JetClass_example_100k.root",
        "https://hqu.web.cern.ch/datasets/JetClass/example/JetClass_example_100k.root",
        136_175_293,
        "sha256:65b3ec7952ed0b18baf2a661a9ffc80173dbf269f4f8dedb1a54d30288ca4e27",
    )
    yield from _zenodo(
        6619768,
        *((f"JetClass_Pythia_{part}.tar", None, f"md5:{md5}") for part, md5 in _JETCLASS.items()),
    )


def _quark_gluon() -> Iterable[Dataset]:
    """Four data sets, not to be mixed: of two generators, each without and with c and b quarks."""
    sums = _QUARK_GLUON.split()
    for kind, (end, record) in enumerate(
        (("", 3164691), ("_withbc", 3164691), ("_herwig", 3066475), ("_herwig_withbc", 3066475))
    ):
        generator, quarks = (
            "Herwig" if "herwig" in end else "Pythia",
            "u, d, s, c, b" if "bc" in end else "u, d, s",
        )
        names = [f"QG_jets{end}{f'_{i}' if i or end else ''}.npz" for i in range(20)]
        yield Dataset(
            f"quarkgluon{end}",
            f"EnergyFlow quark and gluon jets, {generator}, {quarks}",
            "energyflow",
            f"2 million simulated jets, half of them quarks ({quarks}), half gluons: R=0.4, pt 500 to 550 GeV, "
            "|rapidity| < 1.7, all particles of the generator with their PDG ids, no detector. 100 000 jets a file. "
            f"Usual: the first 16 files, from {names[0]} on, for training, two for validation, two for testing.",
            "see the record",
            f"arXiv:1810.05165; data doi:10.5281/zenodo.{record}",
            f"https://zenodo.org/records/{record}",
            tuple(
                _zenodo(
                    record,
                    *((name, None, f"md5:{sums[20 * kind + i]}") for i, name in enumerate(names)),
                )
            ),
        )


def _jetclass2() -> Iterable[RemoteFile]:
    for part, n_files in (("Res2P", 300), ("Res34P", 1290), ("QCD", 420)):
        for i in range(n_files):
            name = f"{part}_{i:04d}.parquet"
            yield RemoteFile(
                name,
                f"https://huggingface.co/datasets/jet-universe/jetclass2/resolve/main/data/{name}",
            )


_HIGGS = "/eos/opendata/cms/datascience/HiggsToBBNtupleProducerTool/HiggsToBBNTuple_HiggsToBB_QCD_RunII_13TeV_MC"
_FTAG = "/eos/opendata/atlas/datascience/ATLAS-FTAG-2023-05"


def _higgstobb() -> Iterable[RemoteFile]:
    for kind in ("h5", "root"):
        for i in range(91):
            path = f"{'test' if i < 9 else 'train'}/ntuple_merged_{i}.{kind}"
            yield RemoteFile(path.partition("/")[2], f"https://opendata.cern.ch{_HIGGS}/{path}")


def _coffea(name: str, commit: str, *known) -> RemoteFile:
    """A small example among the tests of the analysis library coffea."""
    address = f"https://raw.githubusercontent.com/CoffeaTeam/coffea/{commit}/tests/samples/{name}"
    return RemoteFile(name, address, *known)


# fmt: off
DATASETS = {dataset.name: dataset for dataset in (
    Dataset(
        "aoj", "Aspen Open Jets", "aspen",
        "178 million jets that CMS recorded in 2016: R=0.8, pt > 300 GeV, |eta| < 2.5, up to 150 constituents with "
        "tracks and PUPPI weights. Real data, nearly all of it QCD, without labels. About 2.2 million jets a file.",
        "CC-BY-4.0", "arXiv:2412.10504, doi:10.1088/2632-2153/ade58f; data doi:10.25592/uhhfdm.16505",
        "https://www.fdr.uni-hamburg.de/record/16505", tuple(_aspen())),
    Dataset(
        "jetclass", "JetClass", "jetclass",
        "125 million simulated jets of ten classes (Pythia 8 and Delphes with a CMS-like card): R=0.8, pt 500 to "
        "1000 GeV, |eta| < 2, tracks with errors. No pile-up and no event number. Begin with the example of 100 000 "
        "jets; the tar archives have about 15 GB (each part of train), 8 GB (val) and 30 GB (test).",
        "MIT, as Hugging Face says", "arXiv:2202.03772; data doi:10.5281/zenodo.6619768",
        "https://zenodo.org/records/6619768", tuple(_jetclass()),
        "The same archives are at https://hqu.web.cern.ch/datasets/JetClass/."),
    Dataset(
        "jetclass2", "JetClass-II", "jetclass",
        "201 million simulated jets of 188 classes: resonances of many masses that decay to 2, 3 or 4 prongs, and "
        "QCD; R=0.8, pile-up of 50 removed by PUPPI. No event number. 100 000 jets a file. For training: Res2P "
        "0000 to 0199, Res34P 0000 to 0859, QCD 0000 to 0279; then for validation 50, 215, 70; the rest for testing.",
        "MIT", "arXiv:2405.12972", "https://huggingface.co/datasets/jet-universe/jetclass2", tuple(_jetclass2()),
        "The list of files is https://huggingface.co/datasets/jet-universe/jetclass2/resolve/main/filelist.txt."),
    Dataset(
        "toptagging", "Top Quark Tagging Reference", "toptagging",
        "2 million simulated jets, half of them top quarks, half QCD: R=0.8, pt 550 to 650 GeV, |eta| < 2, up to 200 "
        "constituents. Only four-momenta: no charges, no particle types, no tracks, no pile-up.",
        "CC-BY-4.0", "arXiv:1902.09914, arXiv:1707.08966; data doi:10.5281/zenodo.2603256",
        "https://zenodo.org/records/2603256", tuple(_zenodo(
            2603256,
            ("train.h5", 1_038_496_555, "md5:45663819f47c13724f67eb0fd80bfa5c"),
            ("val.h5", 347_378_076, "md5:dca4b7248027618f041f9baa86d360fc"),
            ("test.h5", 347_849_376, "md5:13163479dee30a5fe546e4536cc3d04d")))),
    *_quark_gluon(),
    Dataset(
        "higgstobb", "CMS H to bb and QCD jets", "higgstobb",
        "Simulated CMS jets from H to bb decays and from QCD, with full detector simulation and pile-up: R=0.8, "
        "constituents, tracks and secondary vertices. HDF5 keeps 100 constituents, 60 tracks and 5 vertices of a jet, "
        "ROOT all of them. Numbers 0 to 8 are for testing; about 1.35 GB a file.",
        "CC0-1.0", "doi:10.7483/OPENDATA.CMS.JGJX.MS7Q", "https://opendata.cern.ch/record/12102",
        tuple(_higgstobb()),
        f"When opendata.cern.ch is slow or fails, copy by XRootD: `xrdcp root://eospublic.cern.ch/{_HIGGS}/"
        "train/ntuple_merged_10.root .`; numbers 0 to 8 are in test/."),
    Dataset(
        "hh4b", "X to HH to 4b, joint analysis", "hh4b",
        "The simulated CMS jets of higgstobb, put together by event: X to HH to 4b for many masses of X, and QCD; up "
        "to 5 jets an event, 100 constituents a jet.",
        "not stated; made of CC0-1.0 data", "arXiv:2401.13536; data doi:10.7483/OPENDATA.CMS.JGJX.MS7Q",
        "https://cernbox.cern.ch/s/EDo8Z9FY1ZOewZT",
        by_hand="A browser is needed: open the record, and choose files there (Data_train_*.h5 and so on)."),
    Dataset(
        "pfnano", "CMS PFNano", "pfnano",
        "CMS open data of 2016 with all particle-flow candidates of each event: what Aspen Open Jets is made of. The "
        "public records lack the table that links candidates and jets, so jets are clustered again. The example, 10 "
        "simulated events, has that table.",
        "CC0-1.0; of the example BSD-3-Clause", "CMS collaboration, CERN Open Data Portal, record 31308 for JetHT",
        "https://opendata.cern.ch/record/31308",
        (_coffea("pfnano.root", "3c38ab09090044830368fd7ea9b1d857cb13a993"),),
        "The records are 31300 to 31316; 31308 is JetHT, 842 files. `pip install cernopendata-client`, then "
        "`cernopendata-client download-files --recid 31308 --filter-range 1-1` fetches the first file."),
    Dataset(
        "physlite", "ATLAS PHYSLITE", "physlite",
        "ATLAS open data and simulation, with pile-up: R=0.4 jets, sums over tracks for each vertex, hard-scatter and "
        "pile-up labels in simulation. Most tracks of a jet are not stored. The example has 100 simulated events.",
        "CC0-1.0; of the example BSD-3-Clause", "doi:10.7483/OPENDATA.ATLAS.9HK7.P5SI",
        "https://opendata.cern.ch/record/80020",
        (_coffea("PHYSLITE_example.root", "9c9697ed8134daea73800c826466bdce57c6b427", 1_641_551,
                 "sha256:6ebbafb5a1f72ca0b6fa47de73c28906101997e6f8a58d97536e4c040a15aa0b"),),
        "Records 80000 and 80001 are data, 80010 to 80018 simulation; 80014 is QCD jets, 2097 files. `pip install "
        "cernopendata-client`, then `cernopendata-client download-files --recid 80014 --filter-range 1-1` fetches "
        "the first file."),
    Dataset(
        "jetset", "ATLAS JetSet", "dumper",
        "200 million simulated ATLAS jets of top-quark pairs, 13.6 TeV, with pile-up: R=0.4, up to 40 tracks, label of "
        "hard scatter and pile-up. The files share no event: small has 5.6 million jets, medium 25.6, large 168.",
        "CC0-1.0", "arXiv:2505.19689; data doi:10.7483/OPENDATA.ATLAS.QG8W.TO8P",
        "https://opendata.cern.ch/record/93940", tuple(
            RemoteFile(f"mc-flavtag-ttbar-{size}.h5", f"https://opendata.cern.ch{_FTAG}/mc-flavtag-ttbar-{size}.h5", n)
            for size, n in (("small", 3_055_139_850), ("medium", 13_935_881_976), ("large", 90_797_951_148))),
        "When opendata.cern.ch is slow or fails, copy by XRootD: `xrdcp root://eospublic.cern.ch/"
        f"{_FTAG}/mc-flavtag-ttbar-small.h5 .`."),
    Dataset(
        "jetnet", "JetNet", "jetnet",
        "880 000 simulated jets of gluons, light quarks, tops, W and Z bosons, a file each, of about 1 TeV: the 30 "
        "constituents of largest pt, relative to the jet. No particle types, no tracks, no phi of the jet, no pile-up.",
        "CC-BY-4.0", "arXiv:2106.11535; data doi:10.5281/zenodo.6975118", "https://zenodo.org/records/6975118",
        tuple(_zenodo(6975118,
                      ("g.hdf5", 87_919_040, "md5:4f537329da897a22a59762c9fd8b74da"),
                      ("q.hdf5", 84_658_832, "md5:0ede789774bb74d4795c5d19d7ef66c6"),
                      ("t.hdf5", 88_262_768, "md5:6c9d0663b352c85f74fcd2553e6872bf"),
                      ("w.hdf5", 87_879_360, "md5:16cc265cb039f76bba43bab408916e3e"),
                      ("z.hdf5", 87_770_240, "md5:90ffacd034dc87c802bc43385af9fea3")))),
    Dataset(
        "jetnet150", "JetNet150", "jetnet",
        "The jets of JetNet with up to 150 constituents each.",
        "CC-BY-4.0", "arXiv:2106.11535; data doi:10.5281/zenodo.6975117", "https://zenodo.org/records/6975117",
        tuple(_zenodo(6975117, *((f"{kind}150.hdf5", None, "") for kind in "gqtwz")))),
    Dataset(
        "lhco", "LHC Olympics 2020, R&D", "lhco",
        "Simulated events with a jet of pt > 1.2 TeV (Pythia 8 and Delphes, no pile-up): up to 700 massless particles "
        "each, to be clustered by anti-kT with R=1.0 (FastJet is needed). v2 has 1 million QCD events and "
        "100 000 of a resonance of 3.5 TeV that decays to X (500 GeV) and Y (100 GeV), each to two quarks; Z_XY_qqq "
        "has 100 000 where each decays to three. The truth is that of the event.",
        "CC-BY-4.0", "arXiv:2101.08320; data doi:10.5281/zenodo.6466204", "https://zenodo.org/records/6466204",
        tuple(_zenodo(6466204, *((f"events_anomalydetection_{kind}.h5", None, "") for kind in ("v2", "Z_XY_qqq")))),
        "The files *.features.h5 of the record have numbers of jets without constituents, and are not read."),
    Dataset(
        "lhco_boxes", "LHC Olympics 2020, black boxes", "lhco",
        "Three boxes of 1 million simulated events each, with or without signal, and 1 million QCD events to compare "
        "with (backgroundMC), as in lhco but without the truth in the file.",
        "CC-BY-4.0", "arXiv:2101.08320; data doi:10.5281/zenodo.4536624", "https://zenodo.org/records/4536624",
        tuple(_zenodo(4536624, *((f"events_LHCO2020_{kind}.h5", None, "") for kind in (
            "BlackBox1", "BlackBox2", "BlackBox3", "backgroundMC_Pythia")))),
        "The truth of boxes 1 and 3 is in the files *.masterkey of the record, a line for each event."),
    Dataset(
        "omnilearn", "Files prepared for OmniLearn", "omnilearn",
        "Top tagging, quarks and gluons, JetNet, JetClass and others, each as OmniLearn is trained with it: up to 150 "
        "constituents relative to their jet, no phi of the jet, no tracks: to compare with OmniLearn on the same jets.",
        "that of the data set it was made from", "arXiv:2404.16091, and the data set it was made from",
        "https://github.com/ViniciusMikuni/OmniLearn",
        by_hand="The scripts in the folder preprocessing of the record make such files from the published ones."),
)}
# fmt: on
