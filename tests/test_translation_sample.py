"""The made sentence pairs: sentences that were read one by one, the file, and what is refused."""
import pytest

from lessonlib.samples.translation import (
    MAX_TOKENS,
    MIN_TOKENS,
    draw_pairs,
    make_translation,
    tokens,
)

READ = [
    ("What is the name of Yvonne's mother?", "Comment s'appelle la mère d'Yvonne ?"),
    ("Where is Nicolas's daughter?", "Où est la fille de Nicolas ?"),
    ("Chloé's sister is called Wanda.", "La sœur de Chloé s'appelle Wanda."),
    ("The nurse with the small green sweater is Yvonne's mother.", "L'infirmière au petit pull vert est la mère d'Yvonne."),
    ("Who gave us the old raincoat?", "Qui nous a donné le vieil imperméable ?"),
    ("Simon showed me yellow buckets.", "Simon m'a montré des seaux jaunes."),
    ("Who lent the light bags to Tom?", "Qui a prêté les sacs légers à Tom ?"),
    ("Who gave this map to Pierre?", "Qui a donné cette carte à Pierre ?"),
    ("Forty-five plus twenty-two is sixty-seven.", "Quarante-cinq plus vingt-deux font soixante-sept."),
    ("Björn waited for Paul for fourteen days in front of the school.", "Björn a attendu Paul pendant quatorze jours devant l'école."),
    ("When did the tourist leave?", "Quand le touriste est-il parti ?"),
    ("Forty-seven plus ten is fifty-seven.", "Quarante-sept plus dix font cinquante-sept."),
    ("Julie was born in Chile in 1926.", "Julie est née au Chili en 1926."),
    ("When were they born?", "Quand sont-ils nés ?"),
    ("Where was Emma born?", "Où Emma est-elle née ?"),
    ("Omar was born on June 16, 1927.", "Omar est né le 16 juin 1927."),
    ("Louise hid a dress in May.", "Louise a caché une robe en mai."),
    ("Who hid stories in 1960?", "Qui a caché des histoires en 1960 ?"),
    ("Who will lose the heavy umbrella tonight?", "Qui perdra le parapluie lourd ce soir ?"),
    ("What did Léa bring this morning?", "Qu'est-ce que Léa a apporté ce matin ?"),
    ("The match begins on Tuesday, December 9 at twenty-five to two.", "Le match commence le mardi 9 décembre à deux heures moins vingt-cinq."),
    ("The race begins on May 2 at noon.", "La course commence le 2 mai à midi."),
    ("The trial ends on Saturday, August 9 at ten to four.", "Le procès finit le samedi 9 août à quatre heures moins dix."),
    ("The trial will end on Monday, August 21 at twenty-five to eight.", "Le procès finira le lundi 21 août à huit heures moins vingt-cinq."),
    ("Léa stole the foxes but she did not find them.", "Léa a volé les renards mais elle ne les a pas trouvés."),
    ("Where are the American caps? Yasmine hid them behind the desk.", "Où sont les casquettes américaines ? Yasmine les a cachées derrière le bureau."),
    ("The coats that Inès bought are brown.", "Les manteaux qu'Inès a achetés sont marron."),
    ("The key that Paul hid is behind the brown bed.", "La clé que Paul a cachée est derrière le lit marron."),
    ("Samir is stronger than Tom.", "Samir est plus fort que Tom."),
    ("Paul is furious because he washed a hat.", "Paul est furieux parce qu'il a lavé un chapeau."),
    ("He is stronger than Nina.", "Il est plus fort que Nina."),
    ("Léa's aunt is shy but happy.", "La tante de Léa est timide mais heureuse."),
    ("Our mother called the woman at the swimming pool in 1967.", "Notre mère a appelé la femme à la piscine en 1967."),
    ("Mei says that Eva hid a square blanket.", "Mei dit qu'Eva a caché une couverture carrée."),
    ("Arthur met the man at the museum in 1951.", "Arthur a rencontré l'homme au musée en 1951."),
    ("Arthur thinks that Inès wrote two chapters.", "Arthur pense qu'Inès a écrit deux chapitres."),
    ("What colour is Tom's boat?", "De quelle couleur est le bateau de Tom ?"),
    ("Yvonne's keys are yellow.", "Les clés d'Yvonne sont jaunes."),
    ("My good van is heavier than my van.", "Ma bonne camionnette est plus lourde que ma camionnette."),
    ("My skirt is stranger than my grey coats.", "Ma jupe est plus étrange que mes manteaux gris."),
    ("With whom did Helena go to Zagreb?", "Avec qui Helena est-elle allée à Zagreb ?"),
    ("How did Marie go to Senegal?", "Comment Marie est-elle allée au Sénégal ?"),
    ("Antoine went to Kenya on January 21.", "Antoine est allé au Kenya le 21 janvier."),
    ("With whom did Henri go to Perth?", "Avec qui Henri est-il allé à Perth ?"),
    ("My grandfather works in Santiago, in Chile.", "Mon grand-père travaille à Santiago, au Chili."),
    ("The man lives in Tunis, in Tunisia.", "L'homme habite à Tunis, en Tunisie."),
    ("Yves lives in Madrid, in Spain.", "Yves habite à Madrid, en Espagne."),
    ("When he was fifty-six, he lived in Romania.", "Quand il avait cinquante-six ans, il habitait en Roumanie."),
    ("I am two years old.", "J'ai deux ans."),
    ("The actress is forty-two and my niece is fifty-four.", "L'actrice a quarante-deux ans et ma nièce a cinquante-quatre ans."),
    ("Léa is eleven years old.", "Léa a onze ans."),
    ("Our father is fifty-two years old.", "Notre père a cinquante-deux ans."),
    ("Your bottle is behind the desk.", "Ta bouteille est derrière le bureau."),
    ("The black glass was behind the black sofa.", "Le verre noir était derrière le canapé noir."),
    ("How many caps are there in the garden?", "Combien de casquettes y a-t-il dans le jardin ?"),
    ("There are nineteen purple coats in the attic.", "Il y a dix-neuf manteaux violets dans le grenier."),
    ("How many big dresses did Léa buy?", "Combien de grandes robes Léa a-t-elle achetées ?"),
    ("Which dress will our mother wear?", "Quelle robe notre mère portera-t-elle ?"),
    ("How many strawberries will Björn eat?", "Combien de fraises Björn mangera-t-il ?"),
    ("Which skirt will you find?", "Quelle jupe trouveras-tu ?"),
    ("The teacher who works in Switzerland speaks German.", "Le professeur qui travaille en Suisse parle allemand."),
    ("The queen who works in Athens speaks Italian.", "La reine qui travaille à Athènes parle italien."),
    ("The soldier speaks Spanish and French.", "Le soldat parle espagnol et français."),
    ("You speak French.", "Tu parles français."),
    ("What is the capital of Vietnam?", "Quelle est la capitale du Viêt Nam ?"),
    ("The capital of Kenya is Nairobi.", "La capitale du Kenya est Nairobi."),
    ("What is the capital of Russia?", "Quelle est la capitale de la Russie ?"),
    ("What is the capital of Argentina?", "Quelle est la capitale de l'Argentine ?"),
    ("She will order water and coffee.", "Elle commandera de l'eau et du café."),
    ("How much bread did Sarah eat?", "Combien de pain Sarah a-t-elle mangé ?"),
    ("Max will not eat any bread tomorrow.", "Max ne mangera pas de pain demain."),
    ("How much ham will they eat at a quarter to four?", "Combien de jambon mangeront-ils à quatre heures moins le quart ?"),
]


@pytest.fixture(scope="module")
def pairs():
    return draw_pairs(12000)


def test_sentences_that_were_read(pairs):
    french = {en: fr for en, fr, _ in pairs}
    assert len(READ) >= 60
    for en, fr in READ: assert french.get(en) == fr, en


def test_no_sentence_twice_and_lengths(pairs):
    for side in (0, 1):
        texts = [pair[side] for pair in pairs]
        assert len(set(texts)) == len(texts)
        assert all(MIN_TOKENS <= len(tokens(text)) <= MAX_TOKENS for text in texts)


def test_the_file(tmp_path):
    lines = (make_translation(tmp_path, 500, seed=3) / "eng-fra.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 500 and all(line.count("\t") == 1 for line in lines)
    again = make_translation(tmp_path, 500, seed=3) / "eng-fra.txt"
    assert again.read_text(encoding="utf-8").splitlines() == lines


def test_too_many_pairs_are_refused(monkeypatch):
    from lessonlib.samples import translation
    monkeypatch.setattr(translation, "KINDS", {"one": ((lambda rng: ("It is what it is.", "C'est comme ça, voilà."), 1),)})
    with pytest.raises(ValueError, match="only 1 different pairs of 5"):
        draw_pairs(5)
