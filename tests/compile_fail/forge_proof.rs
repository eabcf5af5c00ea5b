// error: E0451
use countersign::verify::Proof;

pub fn forge_proof() -> Proof {
    Proof {
        key: 0,
        signed_at: None,
    }
}
