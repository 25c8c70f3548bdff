"""Friendly names for thopters, such as ``amber-heron``: easy to say, to type and to tell apart."""

from __future__ import annotations

import random
from collections.abc import Container

FIRST = """
amber apricot ashen auburn autumn azure basil birch bold brave breezy brisk bronze calm candid cedar
chalk cheery chestnut chief citrus civil clear clever cloudy cobalt copper coral cosmic cosy cozy crisp
curious dapper daring dawn deft dewy dusky eager early ebony elder ember fabled fair fern festive fleet
floral fluent fond fresh frosty gentle gilded ginger glad golden grand grassy hardy hazel hearty honest
humble indigo ivory jade jolly jovial juniper keen kind lemon level lilac lively loyal lucid lunar
maple marble mellow merry mild minty misty modest mossy native navy neat nimble noble oaken olive opal
patient pearl placid plucky polar proud prime quick quiet rapid ready regal rosy ruby rustic saffron
sandy scarlet serene sharp shiny silent silver sincere snowy solar spry stable stately steady still
stout sunny tawny tidy topaz tranquil trusty upbeat velvet violet vivid warm wise witty young
zesty
""".split()  # noqa: SIM905 - a hundred words read better like this

SECOND = """
adder albatross alpaca antler auk avocet badger barbet bat beaver bee beetle bison bittern boar bobcat
bream bulbul bunting buzzard caiman camel caribou carp cat chamois cheetah chough civet cod condor coot
cormorant cougar coyote crab crane cricket crow cuckoo curlew darter deer dipper dolphin dormouse dove
dragonfly drake dunlin eagle eel egret eider elk ermine falcon ferret finch firefly flamingo fox frog
gannet gazelle gecko gibbon godwit goose gopher goshawk grebe grouse gull hare harrier hawk hedgehog
heron hobby hoopoe hornbill horse ibex ibis iguana impala jackal jackdaw jay kestrel kingfisher kite
kiwi koala lapwing lark lemming lemur leopard linnet lion llama loach loon lynx macaw magpie mallard
manatee marlin marmot marten martin meerkat merlin mink mole moose moth mouse mule newt nightjar
nuthatch ocelot octopus okapi oriole osprey otter owl oxpecker panda panther parrot partridge pelican
penguin perch petrel pheasant pigeon pika pike pipit plover pony puffin puma quail quetzal rabbit
raccoon raven redstart robin roebuck rook salmon sandpiper seal serval shrew shrike siskin skua sloth
snipe sparrow starling stilt stoat stork swallow swan swift tapir teal tern thrush tiger toad toucan
trout turtle viper vole vulture wagtail walrus warbler weasel whale wigeon wolf wombat wren yak zebra
""".split()  # noqa: SIM905 - a hundred words read better like this


def friendly(taken: Container[str] = (), rng: random.Random | None = None) -> str:
    """Return a name not in ``taken``. Two words; a number is added only when luck runs out."""
    rng = rng or random.SystemRandom()
    name = ""
    for _ in range(64):
        name = f"{rng.choice(FIRST)}-{rng.choice(SECOND)}"
        if name not in taken:
            return name
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"
