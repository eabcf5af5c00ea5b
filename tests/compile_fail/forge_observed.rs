// error: E0451
use countersign::verify::{Observed, Standing};

pub fn forge_observed(other: Observed) -> Standing {
    Standing::Observed(Observed {
        reason: "none",
        ..other
    })
}
