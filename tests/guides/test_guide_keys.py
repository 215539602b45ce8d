"""docs/guides/keys.md, as typed, by somebody with a pool and a friend with an ssh key."""

from guide_kit import Scene, follow

SCENE = Scene(
    page="docs/guides/keys.md",
    before="""
        mkdir -p ~/documents ~/.ssh; echo offer > ~/documents/offer.txt; dal backup ~/documents
        ssh-keygen -q -t ed25519 -N "" -f ~/.ssh/id_ed25519; cp ~/.ssh/id_ed25519.pub anna.pub""",
    between={
        "dal key add --passphrase": "export DAL_NEW_PASSPHRASE=first",
        "dal key passphrase": "export DAL_NEW_PASSPHRASE=second",
        "dal key trust-signer": "ssh-keygen -q -t ed25519 -N '' -f hers; cp hers.pub anna-signs.pub",
        "dal --key typed.txt": "grep '^[1-4]:' page.txt > typed.txt; mv ~/.config/dalsegno/keys ~/keys-lost",
    },
    after="""
        ! dal --key ~/.ssh/id_ed25519 ls documents
        mv ~/.config/dalsegno ~/away
        DAL_PASSPHRASE=second dal ls documents && ! DAL_PASSPHRASE=first dal ls documents""",
)


def test_as_typed() -> None:
    follow(SCENE)
