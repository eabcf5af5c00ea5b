// error: E0308
use countersign::{
    receive::Unverified,
    replay::{Admitted, admit},
};

pub fn admit_unverified(request: Unverified<'_>) -> Admitted<'_> {
    admit(request)
}
