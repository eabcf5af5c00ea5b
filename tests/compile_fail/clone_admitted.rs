// error: E0277
use countersign::replay::Admitted;

pub fn clone_admitted<'s>(request: &Admitted<'s>) -> Admitted<'s> {
    Clone::clone(request)
}
