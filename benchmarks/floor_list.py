"""The cells of bench_floor.py: targets, rows, sources and how they are read."""

from collections.abc import Callable
from functools import partial

import floor_sources as sources
import floor_targets as targets
from floor_cells import Cell
from floor_targets import (
    Read,
    binary,
    bits,
    cases,
    catalogue,
    catalogue_sparse,
    columns,
    r,
    rare,
    sentences_of,
    words_of,
)


def _cells(target: str, rows: str, **reads: Read) -> list[Cell]:
    return [Cell(target, rows, source, read) for source, read in reads.items()]


def _of(read: Callable, *names: str, **options: object) -> dict[str, Read]:
    """Return readers of several sources."""
    return {name.rpartition("/")[2]: partial(read, name, **options) for name in names}


WORDS = "modeldata/training_data"  # reviews of food
COURSES = "openintro/ucla_f18"
IMAGE_TABLES = {
    "coil20": partial(sources.pixels, "coil20", 32, 32),
    "semeion": partial(sources.pixels, "semeion", 16, 16),
    "mfeat_pixel": partial(sources.pixels, "mfeat_pixel", 16, 15),
}


def _image(name: str) -> dict[str, Read]:
    return {name: IMAGE_TABLES.get(name, partial(sources.images, name))}


CELLS = [
    *_cells(
        "classes", "dense", **_of(catalogue, "satimage", "wdbc", "segment", "banknote")
    ),
    *_cells("classes", "mixed", **_of(catalogue, "eucalyptus", "cmc", "credit_g", "adult")),
    *_cells("classes", "counts", **_of(catalogue_sparse, "grants_pre2008", "cnae9")),
    *_cells("classes", "counts", pbmc68k=sources.cell_counts),
    *_cells("classes", "tfidf", **_of(words_of, "newsgroups20", "trec", "ag_news_test")),
    *_cells("classes", "tfidf", training_data=partial(words_of, WORDS, "score")),
    *_cells("classes", "wide", **_of(catalogue, "hepatic_injury_qsar", "pd_speech")),
    *_cells("classes", "wide", **_of(catalogue, "tissue_gene_expression")),
    *_cells("classes", "wide", ad_data=r("modeldata/ad_data", "Class")),
    *_cells("classes", "curves", **_of(sources.curves, "OSULeaf", "ItalyPowerDemand")),
    *_cells("classes", "curves", **_of(sources.curves, "ArrowHead", "GunPoint")),
    *_cells("classes", "images", **_image("fashion_mnist"), **_image("cifar10_webp")),
    *_cells("classes", "images", **_image("coil20"), **_image("semeion")),
    *_cells("classes", "sentences", **_of(sentences_of, "newsgroups20", "ag_news_test")),
    *_cells("classes", "sentences", training_data=partial(sentences_of, WORDS, "score")),
    # Few labels
    *_cells("few05", "dense", **_of(catalogue, "pendigits", "texture")),
    *_cells("few10", "mixed", **_of(catalogue, "default_credit", "adult")),
    *_cells("few10", "tfidf", **_of(words_of, "newsgroups20")),
    *_cells("few05", "tfidf", **_of(words_of, "ag_news_test")),
    *_cells(
        "few10", "counts", **_of(catalogue_sparse, "cnae9"), pbmc68k=sources.cell_counts
    ),
    *_cells("few10", "wide", **_of(catalogue, "arrhythmia", "mice_protein")),
    *_cells(
        "few10", "curves", **_of(sources.curves, "ItalyPowerDemand", "JapaneseVowels_eq")
    ),
    *_cells("few05", "images", **_image("usps"), **_image("mfeat_pixel")),
    *_cells("few10", "images", **_image("fashion_mnist")),
    *_cells("few05", "sentences", **_of(sentences_of, "trec")),
    *_cells("few10", "sentences", training_data=partial(sentences_of, WORDS, "score")),
    # No labels
    *_cells("none", "dense", **_of(catalogue, "weight_lifting_exercise", "anuran_species")),
    *_cells("none", "mixed", **_of(catalogue, "obesity_levels", "soybean")),
    *_cells("none", "tfidf", **_of(words_of, "trec", "ag_news_test")),
    *_cells(
        "none", "counts", **_of(catalogue_sparse, "cnae9"), pbmc68k=sources.cell_counts
    ),
    *_cells("none", "wide", **_of(catalogue, "tissue_gene_expression", "mice_protein")),
    *_cells("none", "curves", **_of(sources.curves, "OSULeaf", "ArrowHead")),
    *_cells("none", "images", **_image("usps"), **_image("coil20")),
    *_cells("none", "sentences", **_of(sentences_of, "newsgroups20", "ag_news_test")),
    # Several labels
    *_cells(
        "labels",
        "mixed",
        movies=partial(binary, partial(columns, targets.movies, *targets.GENRES)),
    ),
    *_cells(
        "labels",
        "mixed",
        nhefs_complete=partial(
            binary,
            r("causaldata/nhefs_complete", *targets.ILLNESSES, drop=targets.NHEFS_HIDDEN),
        ),
    ),
    *_cells(
        "labels",
        "mixed",
        adult=targets.adult_bits,
        wa_churn=partial(binary, r("modeldata/wa_churn", *targets.SERVICES)),
    ),
    *_cells("labels", "dense", mice_protein=targets.mice_bits),
    *_cells("labels", "counts", movielens=targets.film_genres),
    *_cells("labels", "tfidf", trec=partial(targets.coarse_and_fine, words_of)),
    *_cells("labels", "tfidf", ucla_f18=partial(targets.kinds_of_courses, words_of)),
    *_cells("labels", "sentences", trec=partial(targets.coarse_and_fine, sentences_of)),
    *_cells(
        "labels",
        "images",
        fashion_mnist=partial(
            bits, _image("fashion_mnist")["fashion_mnist"], *targets.CLOTHES
        ),
    ),
    *_cells(
        "labels", "images", semeion=partial(bits, IMAGE_TABLES["semeion"], *targets.DIGITS)
    ),
    # One number
    *_cells(
        "number",
        "dense",
        concrete=r("modeldata/concrete", "compressive_strength"),
        Boston=r("MASS/Boston", "medv"),
    ),
    *_cells(
        "number",
        "dense",
        casp=partial(columns, partial(sources.csv, "casp/CASP.csv"), "RMSD"),
        diabetes=targets.diabetes,
    ),
    *_cells(
        "number",
        "dense",
        compactiv=partial(columns, partial(sources.keel, "compactiv/compactiv.dat"), "21"),
    ),
    *_cells(
        "number",
        "mixed",
        diamonds=r("ggplot2/diamonds", "price", log=True),
        Computers=r("Ecdat/Computers", "price"),
    ),
    *_cells(
        "number",
        "mixed",
        medical_cost=partial(
            columns, partial(sources.csv, "medical_cost/insurance.csv"), "charges"
        ),
    ),
    *_cells(
        "number",
        "mixed",
        ames=r("modeldata/ames", "Sale_Price", log=True),
        Wage=r("ISLR/Wage", "wage", drop=("logwage",)),
    ),
    *_cells(
        "number",
        "mixed",
        car_prices=r("modeldata/car_prices", "Price"),
        Hitters=r("ISLR/Hitters", "Salary", log=True),
    ),
    *_cells(
        "number",
        "wide",
        communities=targets.communities,
        permeability_qsar=r("modeldata/permeability_qsar", "permeability", log=True),
    ),
    *_cells(
        "number",
        "curves",
        **{
            n: partial(targets.as_numbers, partial(sources.curves, n))
            for n in ("Covid3Month", "CardanoSentiment")
        },
    ),
    *_cells("number", "counts", movielens=partial(targets.film_numbers, "year")),
    *_cells(
        "number",
        "tfidf",
        tate_text=partial(
            targets.as_numbers, partial(words_of, "modeldata/tate_text", "year")
        ),
    ),
    *_cells(
        "number",
        "sentences",
        trump_tweets=partial(targets.log_counts, sentences_of, "retweet_count"),
    ),
    # Several numbers
    *_cells("numbers", "dense", ambientNOxCH=targets.ambient, Chicago=targets.chicago),
    *_cells(
        "numbers",
        "dense",
        bdims=r("openintro/bdims", "wgt", "hgt", "age"),
        CASchools=r("AER/CASchools", "read", "math", drop=("district", "school", "county")),
    ),
    *_cells(
        "numbers",
        "mixed",
        Hawks=r("Stat2Data/Hawks", "Wing", "Weight", "Culmen", drop=targets.HAWKS_HIDDEN),
    ),
    *_cells(
        "numbers",
        "mixed",
        epa2021=r("openintro/epa2021", "city_mpg", "hwy_mpg", drop=targets.CARS_HIDDEN),
    ),
    *_cells("numbers", "curves", meats=targets.meats),
    *_cells("numbers", "counts", movielens=partial(targets.film_numbers, "year", "rating")),
    *_cells(
        "numbers",
        "tfidf",
        trump_tweets=partial(
            targets.log_counts, words_of, "retweet_count", "favorite_count"
        ),
    ),
    # Rare positives
    *_cells(
        "rare",
        "dense",
        mammography=partial(rare, partial(catalogue, "mammography"), "1"),
        oil_spill=partial(rare, partial(catalogue, "oil_spill"), "1"),
    ),
    *_cells(
        "rare",
        "dense",
        ann_thyroid=partial(rare, partial(catalogue, "ann_thyroid"), "1"),
        page_blocks=partial(rare, partial(catalogue, "page_blocks"), "5"),
    ),
    *_cells("rare", "dense", wilt=partial(rare, partial(catalogue, "wilt"), "w", 0.03)),
    *_cells(
        "rare",
        "mixed",
        lending_club=partial(rare, partial(catalogue, "lending_club"), "bad", 0.03),
        sick=partial(rare, partial(catalogue, "sick"), "sick", 0.04),
    ),
    *_cells(
        "rare",
        "counts",
        hiva_agnostic=partial(rare, partial(catalogue_sparse, "hiva_agnostic"), "1"),
    ),
    *_cells(
        "rare",
        "tfidf",
        newsgroups20=partial(rare, partial(words_of, "newsgroups20"), "sci.space"),
        sms_spam=partial(rare, partial(words_of, "sms_spam"), "spam", 0.03),
    ),
    *_cells(
        "rare",
        "images",
        fashion_mnist=partial(rare, _image("fashion_mnist")["fashion_mnist"], "6", 0.03),
    ),
    *_cells(
        "rare",
        "sentences",
        sms_spam=partial(rare, partial(sentences_of, "sms_spam"), "spam", 0.03),
    ),
    # 50 or more classes
    *_cells(
        "many", "dense", **_of(cases, "openintro/hfi", "gapminder/gapminder", "AER/Guns")
    ),
    *_cells("many", "mixed", **_of(cases, "AER/USSeatBelts", "nycflights13/planes")),
    *_cells(
        "many",
        "tfidf",
        **_of(words_of, "banking77"),
        ucla_f18=partial(words_of, COURSES, "subject_abbr"),
    ),
    *_cells(
        "many",
        "sentences",
        **_of(sentences_of, "banking77"),
        ucla_f18=partial(sentences_of, COURSES, "subject_abbr"),
    ),
    *_cells("many", "images", **_image("cifar100_webp")),
]
