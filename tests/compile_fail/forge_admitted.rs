// error: E0451
use countersign::{
    replay::{Admitted, Lease},
    verify::Verified,
};

pub fn forge_admitted(request: Verified<'_>) -> Admitted<'_> {
    Admitted {
        request,
        lease: Lease::NotRequired,
    }
}
