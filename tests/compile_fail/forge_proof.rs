// error: E0451
use countersign::{route::KeyRef, verify::Proof};

pub fn forge_proof() -> Proof {
    Proof {
        key: KeyRef::Pinned(0),
        signed_at: None,
    }
}
